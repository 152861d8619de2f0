"""A cluster at work: a workload sent to servers that share links. One call, `simulate`, runs it. Knows servers and requests;
the engine's rules are in `engine`.

SimPy is the clock here and no more: one process lets requests arrive, and each server sets one timer for its next event.
Servers are state machines, not processes; queues and rates are the engine's own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import simpy

from emulation.errors import InputError
from emulation.serving.costs import CostModel
from emulation.serving.engine import Server
from emulation.serving.metrics import Recorder
from emulation.serving.prefixes import PrefixStore
from emulation.serving.routes import ClusterRoutes
from emulation.serving.spec import ClusterSpec
from emulation.serving.workload import Request, Workload
from emulation.timing.links.flows import Links

PROGRESS_EVERY = 4096


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `links` has each link's bytes and peak load; modelled time throughout."""

    spec: ClusterSpec
    recorder: Recorder
    links: Links
    num_cached_tokens: int

    def bytes_by_link(self) -> dict[str, int]:
        """Bytes that each link carried; links that carried none are left out."""
        links = self.links
        return {name: round(carried) for name, carried in zip(links.names, links.num_bytes, strict=True) if carried}

    def utilisation_by_link(self) -> dict[str, float]:
        """Mean load (0..1) of each link that carried bytes, over the run's duration."""
        links, duration_ns = self.links, self.recorder.finished_ns
        return {
            name: carried / rate / duration_ns
            for name, rate, carried in zip(links.names, links.bytes_per_ns, links.num_bytes, strict=True)
            if carried
        }


def simulate(spec: ClusterSpec, workload: Workload, on_progress: Callable[[int], None] | None = None) -> Outcome:
    """Serve every request of `workload`; same arguments, same outcome. `on_progress` hears how many are done.
    Raises InputError where a request is too large for the tier."""
    if not spec.running_limit(workload.longest_len):
        raise InputError(why_not(spec, workload.longest_len))
    return _Run(spec, workload, on_progress).run()


def why_not(spec: ClusterSpec, num_tokens: int) -> str:
    """Why a request of `num_tokens`, output included, does not fit, in the words of an error."""
    hbm = spec.request_hbm_bytes(num_tokens)
    return (
        f"tier {spec.tier!r}: a request of {num_tokens} tokens needs {hbm / 1e9:.1f} GB of one GPU's "
        f"{spec.server.hbm_kv_bytes / 1e9:.0f} GB of HBM for KV, in a home of {spec.home_bytes() / 1e9:.0f} GB; "
        "take a shorter context, a smaller hot buffer or more memory"
    )


class _Run:
    """The state of one simulation."""

    def __init__(self, spec: ClusterSpec, workload: Workload, on_progress: Callable[[int], None] | None) -> None:
        self._spec, self._workload, self._on_progress = spec, workload, on_progress
        self._env: Any = simpy.Environment()
        self._routes = ClusterRoutes(spec)
        self._recorder = Recorder(spec.model.top_k)
        self._requests: Iterator[Request] = workload.requests()
        costs = CostModel(spec, self._routes)
        self._servers = [
            Server(number, self._env, costs, self._routes, self._recorder, self._on_finish)
            for number in range(spec.num_servers)
        ]
        kept_bytes = spec.model.token_bytes + spec.model.index_bytes
        block_tokens = workload.block_tokens or 1  # None: no request has ids
        num_blocks = spec.home_bytes() // (block_tokens * kept_bytes)
        self._prefixes = (
            [PrefixStore(num_blocks, block_tokens)] * spec.num_servers
            if spec.policy.shared
            else [PrefixStore(num_blocks // spec.num_servers, block_tokens) for _ in range(spec.num_servers)]
        )
        num_prefixes = min(workload.num_prompts, workload.num_prefixes)
        self._all_prefixes_fit = spec.home_bytes() >= num_prefixes * workload.longest_len * kept_bytes
        self._num_cached_tokens = 0

    def run(self) -> Outcome:
        if self._workload.max_concurrency is None:
            self._env.process(self._arrivals())
        else:
            for request in islice(self._requests, self._workload.max_concurrency):
                self._submit(request)
        self._env.run()
        assert self._recorder.completed == self._workload.num_prompts, "a request was lost"
        return Outcome(self._spec, self._recorder, self._routes.links, self._num_cached_tokens)

    def _arrivals(self) -> Iterator[Any]:
        for request in self._requests:
            if request.arrival_ns > self._env.now:
                yield self._env.timeout(request.arrival_ns - self._env.now)
            self._submit(request)

    def _on_finish(self, finished: Request) -> None:
        if self._on_progress and self._recorder.completed % PROGRESS_EVERY == 0:
            self._on_progress(self._recorder.completed)
        if finished.next_turn is not None:
            self._submit_later(finished.next_turn)
        elif self._workload.max_concurrency is not None and (request := next(self._requests, None)):
            self._submit(request)

    def _submit_later(self, turn: Request) -> None:
        """Submit a turn of a session whose turn before has just ended."""
        in_ns = max(turn.delay_ns, turn.arrival_ns - self._env.now)
        simpy.Timeout(self._env, in_ns).callbacks.append(lambda _: self._submit(turn))

    def _submit(self, request: Request) -> None:
        server = min(self._servers, key=_outstanding)
        cached_len = self._cached_len(request, self._prefixes[server.number])
        self._num_cached_tokens += cached_len
        server.submit(request, cached_len)

    def _cached_len(self, request: Request, prefixes: PrefixStore) -> int:
        """Tokens whose KV is there already; the last one's is computed anew in any case."""
        if request.hash_ids:
            return prefixes.cached_tokens(request)
        free = self._spec.free_hbm_prefix and self._spec.policy.home == "hbm"
        return request.prompt_len - 1 if request.cached and (self._all_prefixes_fit or free) else 0


def _outstanding(server: Server) -> int:
    return server.outstanding
