"""A pooled model that decodes on a device beside the untouched one, in Triton's interpreter without a GPU."""

import pytest
import torch

from sac_runtime.errors import GeometryError
from sac_runtime.fetch.residency import Residency
from sac_runtime.gpu.registration import RegisteredStore
from sac_runtime.models.device import DeviceDecoder
from sac_runtime.models.pooled import pooled

NEW_TOKENS = 3


def test_a_model_decodes_on_a_device_as_it_does_untouched(references, make_pool):
    untouched = references["deepseek_v32"]
    pool = make_pool(untouched)
    with RegisteredStore(pool.store, torch.device("cpu")) as registered:
        decoder = DeviceDecoder(registered)
        with pooled(untouched.model, pool, capacity=untouched.capacity, decoder=decoder) as session:
            tokens, logits = untouched.greedy(new_tokens=NEW_TOKENS)
    assert torch.equal(tokens, untouched.tokens[:, : tokens.shape[1]])
    assert untouched.deviation(logits) < untouched.tolerance
    with pooled(untouched.model, make_pool(untouched), capacity=untouched.capacity) as beside:
        untouched.greedy(new_tokens=NEW_TOKENS)
    assert session.counters == beside.counters


def test_what_a_device_cannot_do_is_refused(references, make_pool, tmp_path):
    untouched = references["deepseek_v32"]
    pool, other = make_pool(untouched), make_pool(untouched)
    with RegisteredStore(pool.store, torch.device("cpu")) as registered:
        decoder = DeviceDecoder(registered)
        with pytest.raises(GeometryError, match="not the pool's"), pooled(untouched.model, other, decoder=decoder):
            untouched.greedy(new_tokens=2)
        resident = Residency.RESIDENT
        with (
            pytest.raises(GeometryError, match="must be sparse"),
            pooled(untouched.model, pool, residency=resident, decoder=decoder),
        ):
            untouched.greedy(new_tokens=2)
        with pytest.raises(GeometryError, match="record without a decoder"):
            pooled(untouched.model, pool, trace_path=tmp_path / "t", decoder=decoder).__enter__()
