"""Guards are seen where they are looked for, and not where a layer, a stride or a choice is wrong."""

import numpy as np
import pytest

from guest.agent.guards import canary_row, layers_with_wrong_canary, poison_all_but, write_canaries
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import KvLayout
from sac_runtime.rows.placement import LayerFirst
from sac_runtime.rows.quantise import unpack_rows

LAYERS = 3


class OffByOneLayer(LayerFirst):
    def rows(self, layer, tokens):
        return super().rows((layer + 1) % LAYERS, tokens)


def test_the_canaries_notice_a_wrong_layer_offset_and_a_wrong_stride():
    layout = KvLayout.fp8()
    placement = LayerFirst(LAYERS, 40)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        write_canaries(store, placement, token=39, num_layers=LAYERS)
        assert layers_with_wrong_canary(store, placement, token=39, num_layers=LAYERS) == []
        assert layers_with_wrong_canary(store, OffByOneLayer(LAYERS, 40), token=39, num_layers=LAYERS) == [0, 1, 2]
        assert layers_with_wrong_canary(store, LayerFirst(LAYERS, 39), token=38, num_layers=LAYERS) == [0, 1, 2]
        store.layout = KvLayout.fp8(padded=False)
        assert layers_with_wrong_canary(store, placement, token=39, num_layers=LAYERS) == [0, 1, 2]


def test_the_canary_of_one_layer_alone_may_be_wrong():
    layout = KvLayout.bf16()
    placement = LayerFirst(LAYERS, 40)
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        write_canaries(store, placement, token=0, num_layers=LAYERS)
        store.write_rows(placement.rows(1, np.array([0])), canary_row(layout, 2))
        assert layers_with_wrong_canary(store, placement, token=0, num_layers=LAYERS) == [1]


@pytest.mark.parametrize("layout", [KvLayout.fp8(), KvLayout.bf16(), KvLayout.fp32()], ids=lambda layout: layout.name)
def test_poison_is_nan_in_every_value_of_every_row_that_was_not_chosen(layout):
    placement, chosen = LayerFirst(LAYERS, 10), np.array([2, 7])
    with MappedStore.anonymous(layout, placement.num_rows) as store:
        poison_all_but(store, placement, 1, chosen)
        held = np.empty((10, layout.row_bytes), np.uint8)
        store.read_rows(placement.rows(1, np.arange(10)), held)
    poisoned = np.isnan(np.hstack(unpack_rows(layout, held))).all(axis=1)
    assert np.flatnonzero(~poisoned).tolist() == chosen.tolist()
