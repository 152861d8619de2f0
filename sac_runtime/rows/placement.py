"""Where the rows of one sequence lie in a store: layer and token to row number. Knows row numbers; knows no bytes, no store.

The words for it, from the outside in:

    Backing (memory/backing.py)         a store, and the RowMap of one request in it: what is read and written by token
    PoolBacking (pool/sequence.py)      a Backing in a pool: writes go through the pool, which refuses what is not this host's
    PoolSequence (pool/sequence.py)     a RowMap that grows: the blocks of one request in a pool, and their publication
    BlockRows (pool/block_rows.py)      where the parts of a pool's blocks lie; gives the RowTable of a list of blocks
    RowMap                              what the fetch path asks of any of them: the LayerRows of a layer
    LayerFirst                          a RowMap without a table: one range of rows per layer
    RowTable                            a RowMap with one: the row of each token in layer 0, layers a fixed distance apart
    LayerRows                           one layer of a RowMap, in the form that native code follows
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sac_runtime.errors import GeometryError, RowRangeError
from sac_runtime.rows.doors import described, require_array, require_whole
from sac_runtime.rows.layout import IntArray


def require_layer(layer: int, num_layers: int) -> None:
    """Raise RowRangeError unless a placement of `num_layers` has the layer."""
    if type(layer) is not int:  # in every step's way: an int passes at once
        require_whole("placement", "layer", layer, -(1 << 62))
    if not 0 <= layer < num_layers:
        raise RowRangeError(f"placement: layer={layer} lies outside [0, {num_layers})")


class LayerRows(NamedTuple):
    """Where the tokens of one layer lie: token t < num_tokens at row first_row + t, or first_row + table[t] with a table."""

    first_row: int
    num_tokens: int
    table: IntArray | None = None

    def row(self, token: int) -> int:
        """Row number of one token. Raises RowRangeError outside."""
        if type(token) is not int:
            require_whole("placement", "token", token, -(1 << 62))
        if not 0 <= token < self.num_tokens:
            raise RowRangeError(f"placement: token {token} lies outside [0, {self.num_tokens})")
        return self.first_row + (token if self.table is None else int(self.table[token]))

    def rows(self, tokens: IntArray) -> IntArray:
        """Row numbers. tokens: (n,) int64. Returns (n,) int64. Raises RowRangeError for a token outside, GeometryError."""
        if not isinstance(tokens, np.ndarray) or tokens.dtype != np.int64 or tokens.ndim != 1:
            raise GeometryError(f"placement: tokens is {described(tokens)}; it must be int64 of one dimension")
        if tokens.size and tokens.view(np.uint64).max() >= self.num_tokens:  # unsigned: one pass finds both ends
            raise RowRangeError(
                f"placement: tokens {tokens.min()} to {tokens.max()} lie outside [0, {self.num_tokens})"
            )
        rows: IntArray = (tokens if self.table is None else self.table[tokens]) + self.first_row
        return rows

    def require_native(self, num_tokens: int) -> None:
        """Raise unless native code, which checks no token and follows `table` unchecked, may place tokens below `num_tokens`."""
        if num_tokens > self.num_tokens:
            raise RowRangeError(f"placement: length={num_tokens} exceeds the {self.num_tokens} tokens that it places")
        table = self.table
        if table is not None and not (
            table.dtype == np.int64 and table.ndim == 1 and table.flags.c_contiguous and table.size >= self.num_tokens
        ):
            raise GeometryError(
                f"placement: table is {table.dtype} of shape {table.shape}; it must be int64 of one dimension, contiguous, "
                f"a row for each of {self.num_tokens} tokens"
            )


@dataclass(frozen=True)
class LayerFirst:
    """Plain placement: the rows of a layer lie together, row = first_row + layer * tokens_capacity + token."""

    num_layers: int
    tokens_capacity: int
    first_row: int = 0

    def __post_init__(self) -> None:
        require_whole("placement", "num_layers", self.num_layers, 1)
        require_whole("placement", "tokens_capacity", self.tokens_capacity)
        require_whole("placement", "first_row", self.first_row)

    @property
    def num_rows(self) -> int:
        return self.num_layers * self.tokens_capacity

    def layer(self, layer: int) -> LayerRows:
        """Where the tokens of `layer` lie. Raises RowRangeError outside the placement."""
        require_layer(layer, self.num_layers)
        return LayerRows(self.first_row + layer * self.tokens_capacity, self.tokens_capacity)

    def rows(self, layer: int, tokens: IntArray) -> IntArray:
        """Row numbers of `tokens` in `layer`. tokens: (n,) int64. Raises RowRangeError outside the placement."""
        return self.layer(layer).rows(tokens)


@dataclass(frozen=True)
class RowTable:
    """Where the tokens of one sequence lie. first_layer: (T,) int64, row of each token in layer 0."""

    first_layer: IntArray
    layer_rows: int
    num_layers: int

    def __post_init__(self) -> None:
        require_array("placement", "first_layer", self.first_layer, np.int64, ("T",))
        require_whole("placement", "layer_rows", self.layer_rows)
        require_whole("placement", "num_layers", self.num_layers, 1)

    def layer(self, layer: int) -> LayerRows:
        """Where the tokens of `layer` lie. Raises RowRangeError outside the layers."""
        require_layer(layer, self.num_layers)
        return LayerRows(layer * self.layer_rows, self.first_layer.size, self.first_layer)

    def rows(self, layer: int, tokens: IntArray) -> IntArray:
        """Row numbers of `tokens` in `layer`, for store.read_rows. tokens: (n,) int64. Raises RowRangeError outside."""
        return self.layer(layer).rows(tokens)


class RowMap(Protocol):
    """Where the tokens of one request lie in a store."""

    def layer(self, layer: int) -> LayerRows: ...
