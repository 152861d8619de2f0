"""One host prefills, another decodes: as two processes over one file, and as two caches that nothing keeps coherent."""

import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

from emulation.stores.incoherent import IncoherentStore
from sac_runtime.errors import SacError
from sac_runtime.models.pooled import pooled
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout

LAYOUT = KvLayout.fp32()
REUSED_TOKENS = 88 + 28  # see test_a_prompt_that_is_in_the_pool_is_not_computed_again

PREFILL = """
import sys, torch
from sac_runtime.models.pooled import MODEL_TYPES, pooled
from sac_runtime.models.tiny import tiny_model
from sac_runtime.rows.layout import KvLayout
from sac_runtime.pool.pool import Pool
from sac_runtime.memory.mapped import MappedStore

torch.set_num_threads(1)
path, prompts, num_rows, metadata_bytes, top_k = sys.argv[1:]
sizes = dict(layout=KvLayout.fp32(), num_rows=int(num_rows), metadata_bytes=int(metadata_bytes))
with MappedStore.shared(path, **sizes) as store, Pool.open(store, host=1) as pool:
    for model_type in MODEL_TYPES:
        model = tiny_model(model_type, int(top_k))
        with pooled(model, pool):
            model.generate(**torch.load(prompts), max_new_tokens=1, do_sample=False)
"""


def test_one_process_prefills_for_two_models_and_another_decodes(references, make_store, make_pool, tmp_path):
    deepseek = references["deepseek_v32"]
    geometry = deepseek.geometry(LAYOUT, hosts=2, blocks=64)
    pool = make_pool(deepseek, hosts=2, blocks=64, store=make_store(geometry, tmp_path / "pool"))
    torch.save(deepseek.inputs, tmp_path / "prompts")
    arguments = [tmp_path / "pool", tmp_path / "prompts", geometry.num_rows, geometry.metadata_bytes, deepseek.top_k]
    subprocess.run([sys.executable, "-c", PREFILL, *map(str, arguments)], check=True, timeout=120)
    for each in references.values():
        with pooled(each.model, pool, capacity=each.capacity) as session:
            each.assert_same(*each.greedy())
        assert session.reused_tokens == REUSED_TOKENS


def prefill_here_decode_there(untouched, make_store, make_pool, before_prefill=None):
    """Two hosts, each with a cache of its own over one memory. Returns the decoding host's session and what it made."""
    memory = make_store(untouched.geometry(LAYOUT, hosts=2))
    here, there = IncoherentStore(memory, seed=1), IncoherentStore(memory, seed=2)
    with ExitStack() as resources:
        first = make_pool(untouched, hosts=2, store=here)
        second = resources.enter_context(Pool.open(there, host=1))
        if before_prefill:
            before_prefill(here, there)
        with pooled(untouched.model, first):
            untouched.greedy(1)
        with pooled(untouched.model, second, capacity=untouched.capacity) as session:
            return session, *untouched.greedy(12)


def test_what_one_host_published_another_decodes_without_coherence(deepseek, make_store, make_pool):
    session, tokens, logits = prefill_here_decode_there(deepseek, make_store, make_pool)
    assert session.reused_tokens == REUSED_TOKENS
    deepseek.assert_same(tokens, logits)


def test_rows_that_are_not_flushed_before_they_are_published_are_noticed(deepseek, make_store, make_pool, monkeypatch):
    monkeypatch.setattr(Pool, "_flush", lambda self, blocks: None)
    session, _, logits = prefill_here_decode_there(deepseek, make_store, make_pool)
    assert session.reused_tokens == REUSED_TOKENS  # the journal says that they are there
    assert deepseek.deviation(logits) == float("inf")


def test_rows_that_are_not_invalidated_before_they_are_read_are_noticed(deepseek, make_store, make_pool, monkeypatch):
    def look_early(here, there):
        """The decoding host's cache holds the whole memory, as it was before the prefill."""
        out = torch.empty(there.size_bytes, dtype=torch.uint8).numpy()
        there.read_bytes(0, out)
        rows = range(there.rows_offset, there.size_bytes)
        right = IncoherentStore.invalidate
        monkeypatch.setattr(
            IncoherentStore,
            "invalidate",
            lambda self, offset, size: right(self, offset, size) if offset not in rows else None,
        )

    session, _, logits = prefill_here_decode_there(deepseek, make_store, make_pool, look_early)
    assert session.reused_tokens == REUSED_TOKENS
    assert deepseek.deviation(logits) == float("inf")


def test_a_host_that_was_fenced_off_gives_no_tokens(deepseek, make_store, make_pool):
    memory = make_store(deepseek.geometry(LAYOUT, hosts=2))
    first = make_pool(deepseek, hosts=2, store=memory)
    with Pool.open(memory, host=1) as second, pooled(deepseek.model, second):
        first._hosts.fence_off(1, int(second._hosts.state["incarnation"]))
        with pytest.raises(SacError, match="fence"):
            deepseek.greedy(4)
