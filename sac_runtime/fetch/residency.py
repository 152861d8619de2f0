"""How a request's KV is held on the decoding host, and what that asks for before its first step. Knows no step.

Three ways run the same steps, and differ only in where misses come from and how many slots there are:

    sparse       SAC: misses come straight from the pool, a hot buffer of a few times top-k slots
    full-prefix  RDMA: the whole prefix is copied to local memory first, misses come from there, the same hot buffer
    resident     HBM: the whole prefix is loaded into a buffer with a slot for every token; nothing is fetched later
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.memory.backing import Backing
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import ByteArray
from sac_runtime.rows.placement import LayerFirst


class Residency(StrEnum):
    """How a request's KV is held on the decoding host; see the module's head."""

    SPARSE = "sparse"
    FULL_PREFIX = "full-prefix"
    RESIDENT = "resident"


@dataclass(frozen=True)
class Admission:
    """Where the misses of an admitted request come from, and what its prefix moved. Time by the store's clock."""

    source: Backing
    prefix_bytes: int = 0
    prefix_ns: int = 0


def admit_sparse(home: Backing) -> Admission:
    """Nothing moves before a step asks for it."""
    return Admission(home)


def admit_full_prefix(
    home: Backing, num_layers: int, num_tokens: int, tokens_capacity: int, resources: ExitStack
) -> Admission:
    """Copy the rows of the first `num_tokens` tokens to memory of this host, layer by layer; `resources` closes it."""
    layout = home.store.layout
    placement = LayerFirst(num_layers, tokens_capacity)
    local = Backing(resources.enter_context(MappedStore.anonymous(layout, placement.num_rows)), placement)
    prefix, tokens = np.empty((num_tokens, layout.row_bytes), np.uint8), np.arange(num_tokens)
    elapsed_ns = 0
    for layer in range(num_layers):
        elapsed_ns += home.read(layer, tokens, prefix)
        local.write(layer, tokens, prefix)
    return Admission(local, num_layers * prefix.size, elapsed_ns)


def admit_resident(home: Backing, buffers: Sequence[HotBuffer], slots: ByteArray, num_tokens: int) -> Admission:
    """Load the first `num_tokens` tokens into `slots`, (L, capacity + 1, row_bytes) uint8, of which each has its own: on the
    direct path a token's slot is its number, so the prefix lands in one read of each layer."""
    tokens, elapsed_ns = np.arange(num_tokens), 0
    for layer, buffer in enumerate(buffers):
        buffer.preload(num_tokens)
        elapsed_ns += home.read(layer, tokens, slots[layer, :num_tokens])
    return Admission(home, len(buffers) * num_tokens * home.store.layout.row_bytes, elapsed_ns)
