"""What a request and a step cost: EngineCosts, the law of misses and the routes put together. Knows no time of day."""

from functools import lru_cache
from typing import NamedTuple

from emulation.serving.routes import ClusterRoutes
from emulation.serving.spec import ClusterSpec
from emulation.timing.profile import GPU_READER, load_profile
from sac_runtime.rows.layout import INDEX_PAGE_TOKENS

ATTENTION_SHARE = (
    13 / 37
)  # assumed: the part of prefill that idle ranks cannot share (13 of 37 B weights at work are attention's)


class RequestCost(NamedTuple):
    """What the engine has to know of a request of given prompt, cached prefix and output.

    entries: missed entries per layer and decode step, on average. load: admission, and the cached prefix's indexer keys on
    their way to HBM; prefill: of the new tokens, with all GPUs at it, in so many chunks. prefetch: of the cached prefix over
    the network; hold: for how long the server's decode stands still for it and for the new KV. hand_over, handed: what a GPU
    that decodes takes from one that prefilled, where they are two ('separated'): the prompt's indexer keys, or all its KV (hbm)."""

    context_tokens: float
    entries: float
    hbm_bytes: int
    load_ns: float
    index_bytes: int
    prefill_ns: float
    chunks: float
    written_bytes: int
    prefetch_ns: float
    prefetch_bytes: int
    new_transfer_bytes: int
    hold_ns: float
    hand_over_ns: float
    handed_bytes: int


class CostModel:
    """Costs for one cluster; requests of equal lengths are looked up."""

    def __init__(self, spec: ClusterSpec, routes: ClusterRoutes) -> None:
        self.spec, self.routes = spec, routes
        costs = spec.costs
        self._page_ns = costs.index_page_ns + routes.page_ns() if routes.fetch_path else 0.0
        self._base_ns = costs.step_base_ns + (costs.sparse_step_ns if routes.fetch_path else 0.0)
        self._coherence = spec.coherence_costs
        self._request_ns = costs.step_request_ns + self._coherence.publish_token_ns
        self.of_request = lru_cache(maxsize=1 << 16)(self._of_request)

    def compute_ns(self, fullest_gpu_ns: float, longest_tokens: float) -> float:
        """Compute of a decode step, given `gpu_work_ns` of the fullest GPU and the longest context."""
        return self._base_ns + fullest_gpu_ns + self.spec.costs.step_longest_token_ns * longest_tokens

    def gpu_work_ns(self, num_requests: int, context_tokens: float) -> float:
        """The part of a decode step's compute that grows with what runs on a GPU."""
        return self._request_ns * num_requests + self.spec.costs.step_context_token_ns * context_tokens

    def prefill_speed(self, num_prefilling: int) -> float:
        """How much faster than with all GPUs at it `num_prefilling` of them prefill: idle ranks share the experts' work."""
        return 1 / (ATTENTION_SHARE + (1 - ATTENTION_SHARE) * num_prefilling / self.spec.server.num_gpus)

    def tokenise_ns(self, prompt_len: int) -> float:
        """What a prompt takes before it reaches its server."""
        return self.spec.costs.tokenise_token_ns * prompt_len

    def _of_request(self, prompt_len: int, output_len: int, cached_len: int) -> RequestCost:
        spec, model = self.spec, self.spec.model
        sparse = self.routes.fetch_path is not None
        new_len = prompt_len - cached_len
        moves = self.routes.prefetch_profile is not None
        prefetched, moved = (cached_len, _whole_pages(new_len)) if moves else (0, 0)
        hold_ns = spec.costs.prefetch_hold * (self.transfer_ns(prefetched) + self.transfer_ns(moved))
        prefill_ns = self._prefill_ns(prompt_len, cached_len)
        if new_len <= INDEX_PAGE_TOKENS:
            prefill_ns = 0.0  # the last page's, which is part of admission
        prefill_ns += spec.server.num_gpus * spec.costs.prefetch_hold * self.transfer_ns(moved)
        return RequestCost(
            context_tokens=prompt_len + output_len / 2,
            entries=self._missed_entries(prompt_len, output_len - 1) if sparse and output_len > 1 else 0.0,
            hbm_bytes=spec.request_hbm_bytes(prompt_len + output_len),
            load_ns=self._load_ns(cached_len) + new_len * self._coherence.publish_token_ns,
            index_bytes=cached_len * model.index_bytes if sparse else 0,
            prefill_ns=prefill_ns,
            chunks=new_len / spec.chunk_tokens,
            written_bytes=new_len * (model.token_bytes + model.index_bytes) if sparse else 0,
            prefetch_ns=self.transfer_ns(prefetched),
            prefetch_bytes=prefetched * model.token_bytes,
            new_transfer_bytes=moved * model.token_bytes,
            hold_ns=hold_ns,
            hand_over_ns=self._hand_over_ns(prompt_len),
            handed_bytes=prompt_len * model.index_bytes if sparse else 0,
        )

    def transfer_ns(self, num_tokens: int) -> float:
        """A whole prefix's own way over the network: bound per request and per operation, one after the other, and by the wire
        at best. What others move at the same time bounds it on the wire alone."""
        profile = self.routes.prefetch_profile
        if profile is None or not num_tokens:
            return 0.0
        costs, entries = self.spec.costs, num_tokens * self.spec.model.num_layers
        posted_ns = costs.prefetch_request_ns + entries * costs.prefetch_ops_per_entry * profile.op_ns
        return max(posted_ns, entries * self.spec.model.row_bytes / profile.adapter.read_bytes_per_ns)

    def _missed_entries(self, prompt_len: int, num_steps: int) -> float:
        """Misses per layer and step, on average over the output: while the buffer fills there are more, later fewer."""
        return self.spec.miss_law(prompt_len).total_misses(self.spec.hot_buffer, num_steps) / num_steps

    def _load_ns(self, cached_len: int) -> float:
        """Admission, and the cached tokens' indexer keys, layer by layer and page by page, read fresh."""
        pages = cached_len / INDEX_PAGE_TOKENS * self.spec.model.num_layers
        return self.spec.costs.admission_ns + pages * self._page_ns + cached_len * self._coherence.fresh_token_ns

    def _hand_over_ns(self, prompt_len: int) -> float:
        model = self.spec.model
        if self.routes.fetch_path is None:
            return (
                prompt_len * (model.token_bytes + model.index_bytes) / load_profile(GPU_READER).reader.read_bytes_per_ns
            )
        return prompt_len / INDEX_PAGE_TOKENS * model.num_layers * self._page_ns

    def _prefill_ns(self, prompt_len: int, cached_len: int) -> float:
        """The new tokens' compute, each behind all those before it."""
        costs = self.spec.costs
        attended = prompt_len**2 - cached_len**2
        return costs.prefill_token_ns * (prompt_len - cached_len) + costs.prefill_token_slope_ns * attended


def _whole_pages(num_tokens: int) -> int:
    """Tokens of whole pages: the engine moves no other prefixes (assumed); the rest goes with the decode's write-back."""
    return num_tokens - num_tokens % INDEX_PAGE_TOKENS
