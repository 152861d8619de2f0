"""What the writer and the reader of one context agree on. Knows sizes and names; opens no memory."""

from dataclasses import dataclass, fields
from typing import Any

from guest.agent.errors import RequestError
from sac_runtime.rows.layout import KvLayout

LAYOUTS = {"fp8": KvLayout.fp8(padded=True), "bf16": KvLayout.bf16()}


@dataclass(frozen=True)
class Task:
    """One context and its decode, for T = context_tokens, S = num_steps, L = num_layers, H = num_heads, k = top_k.

    store: the memory, `dax:/dev/dax0.0`, `shared:PATH` or `numa:NODE`; the last is one process's own. layout: "fp8" or
    "bf16". capacity: slots that the reader may keep per layer. Raises RequestError for what cannot be."""

    store: str
    layout: str
    context_tokens: int
    num_layers: int
    num_heads: int
    top_k: int
    capacity: int
    num_steps: int
    softmax_scale: float

    def __post_init__(self) -> None:
        for name in ("context_tokens", "num_layers", "num_heads", "top_k", "capacity", "num_steps"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise RequestError(f"task: {name}={value!r} must be a whole number of at least 1")
        if self.layout not in LAYOUTS:
            raise RequestError(f"task: layout={self.layout!r} must be one of {', '.join(LAYOUTS)}")
        if not isinstance(self.store, str) or not isinstance(self.softmax_scale, float):
            raise RequestError(
                f"task: store={self.store!r}, softmax_scale={self.softmax_scale!r} must be text, a number"
            )

    @classmethod
    def of(cls, received: Any) -> "Task":
        """The task of a message's field. Raises RequestError where a field is missing, unknown or cannot be."""
        names = {field.name for field in fields(cls)}
        if not isinstance(received, dict) or set(received) != names:
            raise RequestError(f"task: must have exactly the fields {', '.join(sorted(names))}")
        return cls(**received)

    @property
    def kv_layout(self) -> KvLayout:
        return LAYOUTS[self.layout]

    @property
    def query_shape(self) -> tuple[int, int]:
        """(H, D + R): absorbed queries with their RoPE part."""
        return self.num_heads, self.kv_layout.latent + self.kv_layout.rope
