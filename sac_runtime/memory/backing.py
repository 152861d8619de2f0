"""A store together with the place of one request's rows in it. Knows rows; knows no top-k."""

from dataclasses import dataclass

import numpy as np

from sac_runtime.memory.store import KvStore
from sac_runtime.rows.layout import ByteArray, IntArray
from sac_runtime.rows.placement import RowMap


@dataclass(frozen=True)
class Backing:
    """A store and the place of a request's rows in it."""

    store: KvStore
    placement: RowMap

    def read(self, layer: int, tokens: IntArray, out: ByteArray) -> int:
        return self.store.read_rows(self.placement.layer(layer).rows(tokens), out)

    def write(self, layer: int, tokens: IntArray, values: ByteArray) -> int:
        return self.store.write_rows(self.placement.layer(layer).rows(tokens), values)

    def write_token(self, token: int, values: ByteArray) -> int:
        """Write one token's rows of all layers. values: (L, row_bytes) uint8."""
        rows = np.array([self.placement.layer(layer).row(token) for layer in range(len(values))])
        return self.store.write_rows(rows, values)
