"""Row formats: the published sizes, and line and page counts against a count byte by byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sac_runtime.errors import GeometryError, RowRangeError
from sac_runtime.rows.layout import KvLayout, Quantiser
from sac_runtime.rows.placement import LayerFirst


def blocks_by_bytes(layout, rows, block_bytes):
    """Every byte of every row, and the blocks they fall into."""
    touched = set()
    for row in rows:
        start = row * layout.stride_bytes
        touched.update(byte // block_bytes for byte in range(start, start + layout.row_bytes))
    return len(touched)


@pytest.mark.parametrize(
    ("layout", "row_bytes", "stride_bytes", "lines"),
    [
        (KvLayout.bf16(), 1152, 1152, 18),
        (KvLayout.fp32(), 2304, 2304, 36),
        (KvLayout.fp8(), 656, 704, 11),
        (KvLayout.fp8(padded=False), 656, 656, 11),
        (KvLayout.index_page(), 8448, 8448, 132),
    ],
)
def test_rows_have_the_published_sizes(layout, row_bytes, stride_bytes, lines):
    assert (layout.row_bytes, layout.stride_bytes, layout.lines_per_row) == (row_bytes, stride_bytes, lines)


layouts = st.builds(
    lambda row_bytes, padding: KvLayout("any", row_bytes, row_bytes + padding), st.integers(1, 300), st.integers(0, 80)
)


@given(layouts, st.lists(st.integers(0, 60), max_size=20), st.sampled_from([64, 4096]))
def test_touched_lines_and_pages_are_those_of_a_count_by_bytes(layout, rows, block_bytes):
    numbers = np.array(rows, np.int64)
    counted = layout.lines_touched(numbers) if block_bytes == 64 else layout.pages_touched(numbers)
    assert counted == blocks_by_bytes(layout, rows, block_bytes)


@given(layouts)
def test_lines_per_row_is_the_most_that_any_row_touches(layout):
    assert layout.lines_per_row == max(blocks_by_bytes(layout, [row], 64) for row in range(64))


def test_unpadded_fp8_rows_straddle_pages_that_padded_ones_of_a_page_do_not():
    some = np.arange(12)
    assert KvLayout.fp8(padded=False).lines_touched(some) < KvLayout.fp8().lines_touched(some) == 12 * 11


def test_a_stride_below_the_row_is_refused_with_the_fix():
    with pytest.raises(GeometryError, match=r"stride_bytes=600 is below row_bytes=656; .*at least row_bytes"):
        KvLayout("fp8", 656, 600)


def test_an_fp8_layout_names_its_quantiser():
    assert KvLayout.fp8().quantiser is Quantiser.UE8M0_DEEPSEEK
    assert KvLayout.fp8(quantiser=Quantiser.FP32_SGLANG) != KvLayout.fp8()
    assert KvLayout.bf16().quantiser is None


def test_layers_lie_one_after_the_other():
    placement = LayerFirst(num_layers=3, tokens_capacity=10, first_row=100)
    assert placement.rows(2, np.array([0, 9])).tolist() == [120, 129]
    assert placement.num_rows == 30


@pytest.mark.parametrize(("layer", "token"), [(3, 0), (-1, 0), (0, 10), (0, -1)])
def test_a_token_outside_its_layer_is_refused_rather_than_read_from_the_next(layer, token):
    with pytest.raises(RowRangeError, match="outside"):
        LayerFirst(num_layers=3, tokens_capacity=10).rows(layer, np.array([5, token]))
