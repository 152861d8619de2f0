"""Models that we did not write, what they make of a batch of prompts on their own, and pools full of NaN.

Near-equal scores can be chosen otherwise after rounding (an indexer's top-k, an expert): the seeds here have none.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from sac_runtime.memory.mapped import MappedStore
from sac_runtime.models.pooled import MODEL_TYPES, cache_name, pool_shape, pooled
from sac_runtime.models.tiny import tiny_model
from sac_runtime.pool.format import PoolGeometry
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout


@dataclass
class Untouched:
    """A model, prompts padded on the left, and 64 greedy tokens and their logits (steps, batch, vocab) without a pool."""

    top_k: ClassVar[int] = 32
    capacity: ClassVar[int] = 33  # just above top-k, so that nearly every step evicts
    lengths: ClassVar[tuple[int, ...]] = (100, 40, 12)  # prompts on both sides of top-k
    new_tokens: ClassVar[int] = 64
    block_tokens: ClassVar[int] = 16
    tolerance: ClassVar[float] = 1e-5  # of logits that reach 3.5

    model: PreTrainedModel
    inputs: dict[str, torch.Tensor]

    def __post_init__(self):
        self.tokens, self.logits = self.greedy()

    @property
    def cache(self):
        return cache_name(self.model)

    def greedy(self, new_tokens=64, model=None, **options):
        """Tokens (batch, columns) and logits of the model as it is now, or of another one."""
        output = (model or self.model).generate(
            **{**self.inputs, **options},
            max_new_tokens=new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return output.sequences, torch.stack(output.logits)

    def deviation(self, logits):
        """Largest difference to the untouched model's logits; infinite where one is NaN."""
        difference = (logits - self.logits[: len(logits)]).abs()
        return float(torch.nan_to_num(difference, nan=torch.inf).max())

    def assert_same(self, tokens, logits):
        """Tokens must be equal, logits within the tolerance, as far as they go."""
        assert torch.equal(tokens, self.tokens[:, : tokens.shape[1]])
        assert self.deviation(logits) < self.tolerance

    def geometry(self, layout, hosts=1, blocks=48):
        return PoolGeometry(
            layout, hosts, block_tokens=self.block_tokens, blocks_per_host=blocks, **pool_shape(self.model)
        )

    def broken_run(self, pool, new_tokens=12):
        """Deviation of a run over a pool, short and with an eviction at nearly every step."""
        with pooled(self.model, pool, capacity=self.capacity):
            return self.deviation(self.greedy(new_tokens)[1])


def prompts(lengths):
    generator = torch.Generator().manual_seed(3)
    longest = max(lengths)
    rows = [torch.randint(1, 512, (length,), generator=generator) for length in lengths]
    return {
        "input_ids": torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - length) + [1] * length for length in lengths]),
    }


@pytest.fixture(scope="session")
def references():
    """By model type."""
    return {name: Untouched(tiny_model(name, Untouched.top_k), prompts(Untouched.lengths)) for name in MODEL_TYPES}


@pytest.fixture(params=MODEL_TYPES)
def untouched(request, references):
    return references[request.param]


@pytest.fixture
def deepseek(references):
    return references["deepseek_v32"]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_store():
    """Makes a store with every row NaN, so that a row that is read before it was written shows in the logits."""
    with ExitStack() as resources:

        def make(geometry, path=None):
            sizes = {"num_rows": geometry.num_rows, "metadata_bytes": geometry.metadata_bytes, "huge_pages": False}
            if path is None:
                store = MappedStore.anonymous(geometry.layout, **sizes)
            else:
                store = MappedStore.shared(path, layout=geometry.layout, **sizes)
            all_ones = np.full((1024, geometry.layout.row_bytes), 0xFF, np.uint8)  # a NaN in fp32, bf16 and e4m3
            for first in range(0, geometry.num_rows, 1024):
                rows = np.arange(first, min(first + 1024, geometry.num_rows))
                store.write_rows(rows, all_ones[: len(rows)])
            return resources.enter_context(store)

        yield make


@pytest.fixture
def make_pool(make_store):
    """Makes a pool that fits an Untouched, in a store of its own or a given one."""
    with ExitStack() as resources:

        def make(untouched, layout=None, hosts=1, blocks=48, store=None):
            geometry = untouched.geometry(layout or KvLayout.fp32(), hosts, blocks)
            pool = Pool.create(
                store or make_store(geometry),
                host=0,
                num_hosts=hosts,
                block_tokens=untouched.block_tokens,
                blocks_per_host=blocks,
                **pool_shape(untouched.model),
            )
            return resources.enter_context(pool)

        yield make
