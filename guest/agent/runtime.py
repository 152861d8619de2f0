"""What a runtime under test offers, and how one is found by its name. Knows the contract; knows no runtime.

A runtime is a function `open_runtime(task) -> Runtime`, which maps the memory that `task.store` names. Names:

    sac                    the reference runtime, `guest.agent.sac`
    a name without . or :  an entry point of the group `cxlbed.runtimes` whose object is such a function
    package.module         that module's `open_runtime`
    package.module:name    that module's `name`

A context is written by the runtime on one host and read by the same runtime on another, or by one process where the memory is
its own. The runtime is told nothing of the truth: whether its bytes are right is for the testbed to say. It may raise anything;
an exception ends the agent with its traceback on stderr, a SacError with its message and exit status. What it prints goes to
stderr. Array letters are those of Task; D and R are the layout's latent and rope.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, runtime_checkable

from guest.agent.errors import ContractError, RequestError
from guest.agent.task import Task
from sac_runtime.rows.layout import ByteArray, FloatArray, IntArray

REFERENCE = "sac"
ENTRY_POINTS = "cxlbed.runtimes"
FACTORY = "open_runtime"


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What the model gives one layer of one step. scores: (T + step + 1,) fp32, the indexer's, the new token's last;
    query: (H, D + R) fp32, absorbed, RoPE part last; row: (row_bytes,) uint8, the new token's KV."""

    scores: FloatArray
    query: FloatArray
    row: ByteArray


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """What the runtime made of it, for the n = min(k, T + step + 1) entries that it attended to.

    positions: (n,) int64, their tokens: the top-k of the scores, ascending. rows: (n, row_bytes) uint8, their bytes as
    attention read them, in the same order. attention: (H, D) fp32. miss_tokens: (m,) int64, tokens whose rows came from the
    memory of the task and not from a buffer of this host."""

    positions: IntArray
    rows: ByteArray
    attention: FloatArray
    miss_tokens: IntArray


class Decoding(Protocol):
    """One context as a host decodes from it. Its methods are called in this order: wrong_canaries once; for each step attend
    of layer 0 to L - 1, then end_step; read_back of each layer; close."""

    def wrong_canaries(self) -> list[int]:
        """Layers whose guard row is not where this host looks for it; [] from a runtime that keeps no guard rows."""
        ...

    def attend(self, layer: int, given: LayerInput) -> LayerOutput:
        """One layer of one step: choose, fetch what is missing, attend."""
        ...

    def end_step(self) -> None:
        """Every layer of the step is done: its new rows go to the memory before the next step begins."""
        ...

    def read_back(self, layer: int) -> ByteArray:
        """(S, row_bytes) uint8: the new rows of a layer as another host would read them, from the memory itself."""
        ...

    def close(self) -> None: ...


class Runtime(Protocol):
    """A runtime on one host over the memory of one task."""

    def populate(self, tokens: IntArray, layers: Iterable[ByteArray]) -> None:
        """Write a context so that another host finds it by its tokens. tokens: (T,) int64; layers: gives the (T, row_bytes)
        uint8 rows of layer 0 to L - 1, each once. What the memory held before is void."""
        ...

    def fetch(self, tokens: IntArray) -> Decoding:
        """Begin to decode from the context that was written for `tokens`, (T,) int64."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BitFlipper(Protocol):
    """A runtime that can spoil what it wrote, so that a check can be seen to fail; others are run without a flip."""

    def flip_bit(self, tokens: IntArray, layer: int, token: int, byte: int) -> None:
        """Flip the lowest bit of one byte of a written row, in the memory and behind the runtime's own back."""
        ...


OpenRuntime = Callable[[Task], Runtime]


def find_runtime(name: str) -> OpenRuntime:
    """The function that opens the runtime `name`. Raises RequestError for a name that leads to none."""
    if name == REFERENCE:
        return _from_module(name, "guest.agent.sac", FACTORY)
    if "." in name or ":" in name:
        module, _, attribute = name.partition(":")
        return _from_module(name, module, attribute or FACTORY)
    from importlib.metadata import (
        entry_points,
    )  # a fifth of the worker's start, for which `sac` in an emulated guest need not wait

    installed = entry_points(group=ENTRY_POINTS)
    if name not in installed.names:
        known = ", ".join(sorted({REFERENCE, *installed.names}))
        raise RequestError(f"runtime '{name}': is not installed here (known: {known}); name one, or a module's path")
    return _callable(name, installed[name].load())


def open_runtime(name: str, task: Task) -> Runtime:
    """Open the runtime `name` on the memory of `task`. Raises RequestError, ContractError, and what the runtime raises."""
    runtime = find_runtime(name)(task)
    missing = [method for method in ("populate", "fetch", "close") if not callable(getattr(runtime, method, None))]
    if missing:
        raise ContractError(f"runtime '{name}': offers no {', no '.join(missing)}; see guest/agent/runtime.py")
    return runtime


def _from_module(name: str, module: str, attribute: str) -> OpenRuntime:
    try:
        return _callable(name, getattr(import_module(module), attribute, None), attribute)
    except ModuleNotFoundError as error:
        raise RequestError(f"runtime '{name}': {error}; is it on this host's Python path?") from error


def _callable(name: str, candidate: object, attribute: str = FACTORY) -> OpenRuntime:
    if not callable(candidate):
        raise RequestError(f"runtime '{name}': has no function {attribute}(task)")
    function: OpenRuntime = candidate
    return function
