"""What a request and a step cost: EngineCosts, the law of misses and the routes put together. Knows no time of day."""

from dataclasses import dataclass
from functools import lru_cache

from emulation.serving.routes import ClusterRoutes
from emulation.serving.spec import ClusterSpec
from sac_runtime.rows.layout import INDEX_PAGE_TOKENS


@dataclass(frozen=True)
class RequestCost:
    """What the engine has to know of a request of given prompt, cached prefix and output.

    entries: missed entries per layer and decode step, on average; prefetch: of the cached prefix, before all else;
    load: admission, and the cached prefix's indexer keys on their way to HBM; prefill: of the new tokens, with all GPUs
    at it; new_transfer: of the KV that prefill makes. Transfers have the server's transfer engine to themselves."""

    context_tokens: float
    entries: float
    hbm_bytes: int
    load_ns: float
    index_bytes: int
    prefill_ns: float
    written_bytes: int
    prefetch_ns: float
    prefetch_bytes: int
    new_transfer_ns: float
    new_transfer_bytes: int


NO_COST = RequestCost(  # of a GPU that has nothing in a stage; durations of 1 ns, as rates are bytes over them
    context_tokens=0.0,
    entries=0.0,
    hbm_bytes=0,
    load_ns=1.0,
    index_bytes=0,
    prefill_ns=1.0,
    written_bytes=0,
    prefetch_ns=0.0,
    prefetch_bytes=0,
    new_transfer_ns=0.0,
    new_transfer_bytes=0,
)


class CostModel:
    """Costs for one cluster; requests of equal lengths are looked up."""

    def __init__(self, spec: ClusterSpec, routes: ClusterRoutes) -> None:
        self.spec, self.routes = spec, routes
        self._page_ns = spec.costs.index_page_ns + routes.page_ns() if routes.fetch_path else 0.0
        self.of_request = lru_cache(maxsize=1 << 16)(self._of_request)

    def compute_ns(self, fullest_gpu_ns: float, longest_tokens: float) -> float:
        """Compute of a decode step, given `gpu_work_ns` of the fullest GPU and the longest context."""
        costs = self.spec.costs
        return costs.step_base_ns + fullest_gpu_ns + costs.step_longest_token_ns * longest_tokens

    def gpu_work_ns(self, num_requests: int, context_tokens: float) -> float:
        """The part of a decode step's compute that grows with what runs on a GPU."""
        costs = self.spec.costs
        return costs.step_request_ns * num_requests + costs.step_context_token_ns * context_tokens

    def _of_request(self, prompt_len: int, output_len: int, cached_len: int) -> RequestCost:
        spec, model = self.spec, self.spec.model
        num_steps = output_len - 1
        sparse = spec.policy.fetch_profile is not None
        new_len = prompt_len - cached_len
        moved_lens = (cached_len, _whole_pages(new_len)) if self.routes.prefetch_profile else (0, 0)
        return RequestCost(
            context_tokens=prompt_len + output_len / 2,
            entries=self._missed_entries(prompt_len, num_steps) if sparse and num_steps else 0.0,
            hbm_bytes=spec.request_hbm_bytes(prompt_len + output_len),
            load_ns=self._load_ns(cached_len),
            index_bytes=cached_len * model.index_bytes if sparse else 0,
            prefill_ns=self._prefill_ns(prompt_len, cached_len),
            written_bytes=new_len * (model.token_bytes + model.index_bytes) if sparse else 0,
            prefetch_ns=self._transfer_ns(moved_lens[0]),
            prefetch_bytes=moved_lens[0] * model.token_bytes,
            new_transfer_ns=self._transfer_ns(moved_lens[1]),
            new_transfer_bytes=moved_lens[1] * model.token_bytes,
        )

    def _missed_entries(self, prompt_len: int, num_steps: int) -> float:
        """Misses per layer and step, on average over the output."""
        return self.spec.miss_law(prompt_len).total_misses(self.spec.hot_buffer, num_steps) / num_steps

    def prefill_speed(self, num_prefilling: int) -> float:
        """How much faster than with all GPUs at it `num_prefilling` of them prefill: idle ranks share the experts' work."""
        own = self.spec.costs.prefill_own_share
        return 1 / (own + (1 - own) * num_prefilling / self.spec.server.num_gpus)

    def _load_ns(self, cached_len: int) -> float:
        """Admission, and the cached tokens' indexer keys, layer by layer and page by page."""
        pages = cached_len / INDEX_PAGE_TOKENS * self.spec.model.num_layers
        return self.spec.costs.admission_ns + pages * self._page_ns

    def _prefill_ns(self, prompt_len: int, cached_len: int) -> float:
        """The new tokens' compute, each behind all those before it."""
        costs = self.spec.costs
        attended = prompt_len**2 - cached_len**2
        return costs.prefill_token_ns * (prompt_len - cached_len) + costs.prefill_token_slope_ns * attended

    def _transfer_ns(self, num_tokens: int) -> float:
        """Work of a whole-prefix transfer: bound per request and per operation, and by the wire at best."""
        profile = self.routes.prefetch_profile
        if profile is None or not num_tokens:
            return 0.0
        num_bytes = num_tokens * self.spec.model.token_bytes
        entries = num_tokens * self.spec.model.num_layers
        posted_ns = self.spec.costs.prefetch_request_ns
        posted_ns += entries * self.spec.costs.prefetch_ops_per_entry * profile.op_ns
        return max(posted_ns, num_bytes / profile.adapter.read_bytes_per_ns)


def _whole_pages(num_tokens: int) -> int:
    """Tokens of whole pages: the engine moves no other prefixes (assumed); the rest goes with the decode's write-back."""
    return num_tokens - num_tokens % INDEX_PAGE_TOKENS
