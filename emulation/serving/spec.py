"""What is simulated: model, server, cluster, the four ways to keep KV, and the engine's calibrated costs.
Knows sizes and settings, no time and no requests. Everything here is frozen."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil

from emulation.errors import InputError
from emulation.serving.coherence import WAYS, CoherenceCosts, coherence_costs
from emulation.timing.misses import BufferLaw, MeasuredLaw, MissLaw
from emulation.timing.profile import Bandwidth, Profile, load_profile
from emulation.timing.tiers import SERVED, TIERS
from sac_runtime.rows.layout import (
    DEEPSEEK_LAYERS,
    DEEPSEEK_TOP_K,
    INDEX_PAGE_BYTES,
    INDEX_PAGE_TOKENS,
    SAC_BUFFER_SLOTS,
    KvLayout,
)

GB = 1_000_000_000
TIB = 1 << 40
MOST_PARTS = 4096  # servers, devices, GPUs per server: a fabric of CXL 3.0 has no more nodes
ENGINES = ("prefill-first", "chunked", "separated")
PLACEMENTS = ("least-requests", "round-robin", "prefix")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model: of its KV, and of the weights that a token is computed with. Default: DeepSeek-V3.2 in bf16, as the file
    `deepseek-v3.2` has it."""

    name: str = "DeepSeek-V3.2"
    num_layers: int = DEEPSEEK_LAYERS
    row_bytes: int = KvLayout.bf16().row_bytes
    index_token_bytes: int = INDEX_PAGE_BYTES // INDEX_PAGE_TOKENS  # indexer keys of a token and layer
    top_k: int = DEEPSEEK_TOP_K
    max_context_tokens: int = 163_840  # prompt and output
    total_parameters: float = 671e9
    active_parameters: float = 37e9  # that take part in a token
    weight_bits: float = 4

    @property
    def weight_bytes(self) -> float:
        """All weights."""
        return self.total_parameters * self.weight_bits / 8

    @property
    def token_bytes(self) -> int:
        """KV of a token, all layers."""
        return self.num_layers * self.row_bytes

    @property
    def index_bytes(self) -> int:
        """Indexer keys of a token, all layers."""
        return self.num_layers * self.index_token_bytes


@dataclass(frozen=True)
class GpuSpec:
    """Published figures of a GPU. tflops: dense bf16; reserved_bytes: of its HBM, for activations and graphs. Default: the H20 of
    SAC's testbed, as the file `h20` has it."""

    name: str = "H20"
    hbm_bytes: int = 96 * GB
    hbm_bytes_per_ns: float = 4000.0
    tflops: float = 148.0
    reserved_bytes: int = 14 * GB


@dataclass(frozen=True)
class RdmaWay:
    """One way to move KV by RDMA. reads: 'prefixes', whole, before a request's prefill; or 'rows', the misses of each step, with
    nothing prefetched. profile: what an operation takes; nics: network cards per server, of nic_bytes_per_ns each, of which each
    GPU has its share. Of prefixes: request_ns, ops_per_entry and hold are EngineCosts' prefetch figures; None: as fitted."""

    name: str = "sac"
    reads: str = "prefixes"
    profile: str = TIERS["rdma"].gpu
    nics: int = 8
    nic_bytes_per_ns: float = 12.5
    request_ns: float | None = None
    ops_per_entry: float | None = None
    hold: float | None = None


@dataclass(frozen=True)
class ServerSpec:
    """One server. Default: the testbed of SAC, 8 H20 GPUs and two sockets."""

    num_gpus: int = 8
    num_sockets: int = 2  # each with DRAM and a host adapter of its own [SAC]
    hbm_kv_bytes: int = 40 * GB  # assumed: 96 GB less 42 GB of 4-bit weights and 14 GB of activations and graphs
    dram_bytes: int = 8 * TIB  # assumed: holds every prefix of a run, as the paper's round 2 hits for every one


@dataclass(frozen=True)
class Policy:
    """One way to keep KV. The engine is the same for all; these fields are the whole difference.

    home: where the full KV and the prefixes are: 'hbm', 'server' (its DRAM) or 'pool' (devices that servers share).
    shared: whether every server reaches the prefixes of all, or each its own alone.
    fetch_profile: what a GPU's sparse reads see; None: nothing is read, all KV is in HBM.
    prefetch_profile: what a whole prefix crosses before its first step; None: no prefetch."""

    tier: str
    home: str
    shared: bool
    fetch_profile: str | None
    prefetch_profile: str | None = None


POLICIES = {
    "hbm": Policy("hbm", "hbm", False, None),
    "dram": Policy("dram", "server", False, TIERS["dram"].gpu),
    "cxl": Policy("cxl", "pool", True, TIERS["cxl"].gpu),
    "rdma": Policy("rdma", "server", True, TIERS["dram"].gpu, TIERS["rdma"].gpu),
}


@dataclass(frozen=True)
class EngineCosts:
    """What the serving engine itself takes: the free parameters of the model, fitted by `calibration`, which also says what each
    rests on.

    A decode step of all GPUs in lockstep: base + where rows are fetched the sparse path's own + per request of the fullest GPU
    + per token of its contexts (indexer) + per token of the longest context (top-k selection: one block per sequence, so the
    longest sets its time). Fitted on 8 GPUs, and taken to hold for each GPU of servers with another number (assumed)."""

    step_base_ns: float = 19.2e6  # weights, experts, all-to-all
    sparse_step_ns: float = 19.48e6  # of every tier that fetches: plan, swap-in kernel and waits of 61 layers
    step_request_ns: float = 1.11e6
    step_context_token_ns: float = 14.3
    step_longest_token_ns: float = 24.5
    step_spread: float = 0.102  # sigma of ln of a step's time: experts and ranks are loaded unevenly, from step to step
    prefill_token_ns: float = 1.545e6  # of one GPU while all prefill
    prefill_token_slope_ns: float = 1.72  # added for each token of context before it
    tokenise_token_ns: float = 2.1e3  # of a prompt, before it reaches its server; nobody else waits for it
    admission_ns: float = 0.155e9  # scheduling, page tables and the last page's prefill
    index_page_ns: float = 2.72e3  # set-up of one copy of a layer's page of indexer keys
    wait_spread: float = 0.155  # sigma of ln of a request's own waits: loading its keys, moving its prefix
    prefetch_request_ns: float = 3.45e9  # look-up, registration and hand-over of one whole-prefix transfer
    prefetch_ops_per_entry: float = 9.52  # work requests, one after the other, per KV entry of a prefix
    prefetch_hold: float = 0.0502  # part of a transfer's time that its server's decode stands still for it
    whole_hbm_share: float = 0.29  # of the HBM for KV that whole requests can fill, where no hot buffer is kept (hbm)


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster and its way of keeping KV. Raises InputError, naming the field, for what cannot be built.

    num_devices: devices of the pool, shared by all servers. A request's KV is whole in the device of its GPU's rank
    (ranks map to devices round-robin [SAC]); `striped` spreads each request over all devices.
    overlap: share of the top-k kept from step to step; None: as the footprint of the context length has it.
    measured_misses: misses per layer and step at `hot_buffer`, from a recorded trace, for every context above it; None: by law.
    free_hbm_prefix: prefixes are in HBM without having been put there, the kindest case for 'hbm'.
    coherence: how hosts see one another's KV in a pool, `coherence.WAYS`.
    engine: how prefill and decode share a server: 'prefill-first' (SGLang's default: while any GPU prefills, none decodes),
    'chunked' (each step carries a chunk of `chunk_tokens` tokens of prefill along), 'separated' (`prefill_gpus` of each server
    prefill, the others decode).
    placement: which server takes a request: 'least-requests' under way, 'round-robin', or 'prefix': the one that holds the
    longest prefix, of equals the one with fewest requests."""

    tier: str
    num_servers: int = 1
    num_devices: int = 2
    hot_buffer: int = SAC_BUFFER_SLOTS
    profile: Profile | None = None  # in place of the policy's: of the prefetch where there is one, else of sparse reads
    striped: bool = False
    overlap: float | None = None
    measured_misses: float | None = None
    free_hbm_prefix: bool = True
    coherence: str = WAYS[0]
    engine: str = "prefill-first"
    chunk_tokens: int = 1024  # of each GPU: SGLang divides its 8192 by the ranks of DP attention
    prefill_gpus: int = 2
    placement: str = "least-requests"
    device_bytes: int = 8 * TIB  # assumed: see ServerSpec.dram_bytes
    server: ServerSpec = ServerSpec()
    model: ModelShape = ModelShape()
    gpu: GpuSpec = GpuSpec()
    rdma: RdmaWay = RdmaWay()
    costs: EngineCosts = field(default_factory=EngineCosts)

    def __post_init__(self) -> None:
        if self.tier not in SERVED:
            raise InputError(f"cluster: tier={self.tier!r} is unknown; take one of {', '.join(SERVED)}")
        for name, value in (
            ("num_servers", self.num_servers),
            ("num_devices", self.num_devices),
            ("num_gpus", self.server.num_gpus),
        ):
            if value < 1:
                raise InputError(f"cluster: {name}={value} must be at least 1")
            if value > MOST_PARTS:
                raise InputError(f"cluster: {name}={value} must be at most {MOST_PARTS}")
        if self.hot_buffer < self.model.top_k:
            raise InputError(f"cluster: hot_buffer={self.hot_buffer} is below top_k; give at least {self.model.top_k}")
        if self.overlap is not None and not 0 < self.overlap < 1:
            raise InputError(f"cluster: overlap={self.overlap} must lie between 0 and 1")
        if self.coherence not in WAYS:
            raise InputError(f"cluster: coherence={self.coherence!r} is unknown; take one of {', '.join(WAYS)}")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"cluster: engine={self.engine!r} is unknown; take one of {', '.join(ENGINES)}")
        if self.placement not in PLACEMENTS:
            raise InputError(f"cluster: placement={self.placement!r} is unknown; take one of {', '.join(PLACEMENTS)}")
        if self.chunk_tokens < 1:
            raise InputError(f"cluster: chunk_tokens={self.chunk_tokens} must be at least 1")
        if self.engine == "separated" and not 0 < self.prefill_gpus < self.server.num_gpus:
            raise InputError(
                f"cluster: prefill_gpus={self.prefill_gpus} of {self.server.num_gpus} GPUs per server; with engine='separated' "
                "at least one must prefill and one decode"
            )

    @cached_property
    def policy(self) -> Policy:
        policy = POLICIES[self.tier]
        if self.tier == "rdma" and self.rdma.reads == "rows":
            return replace(policy, fetch_profile=self.rdma.profile, prefetch_profile=None)
        return replace(policy, prefetch_profile=self.rdma.profile) if self.tier == "rdma" else policy

    @property
    def fetch_profile(self) -> Profile | None:
        """What a GPU's sparse reads see; None where nothing is read."""
        if self.tier == "rdma" and self.rdma.reads == "rows":
            return self._nic_share()
        if self.profile and not self.policy.prefetch_profile and self.policy.fetch_profile:
            return self.profile
        return load_profile(self.policy.fetch_profile) if self.policy.fetch_profile else None

    @property
    def prefetch_profile(self) -> Profile | None:
        """What whole prefixes cross; None where nothing is prefetched."""
        return self._nic_share() if self.policy.prefetch_profile else None

    @property
    def coherence_costs(self) -> CoherenceCosts:
        """What publishing and fresh reading cost per token; nothing where KV is in no pool, or the profile says nothing of it."""
        profile = self.fetch_profile if self.policy.home == "pool" else None
        token_bytes, index_bytes = self.model.token_bytes, self.model.index_bytes
        return coherence_costs(profile, self.coherence, token_bytes + index_bytes, index_bytes)

    @property
    def nic_gbit(self) -> float | None:
        """The wire of each network card that rows or prefixes cross, in Gb/s; None where none does."""
        if self.tier != "rdma":
            return None
        return 8 * (self.profile.adapter.read_bytes_per_ns if self.profile else self.rdma.nic_bytes_per_ns)

    def _nic_share(self) -> Profile:
        """What one GPU sees of its server's network cards: its share of their bandwidth, and where it reads rows of their rate of
        operations too. A profile that was given brings its own wire."""
        profile = self.profile or load_profile(self.rdma.profile)
        wire = profile.adapter.read_bytes_per_ns if self.profile else self.rdma.nic_bytes_per_ns
        share = self.rdma.nics / self.server.num_gpus
        op_ns = ceil(profile.op_ns / share) if self.rdma.reads == "rows" else profile.op_ns
        return replace(profile, adapter=Bandwidth(wire * share, wire * share), op_ns=op_ns)

    @property
    def num_gpus(self) -> int:
        return self.num_servers * self.server.num_gpus

    @property
    def decode_gpus(self) -> range:
        """The GPUs of a server that decode, by number; with 'separated' the first ones prefill."""
        return range(self.prefill_gpus if self.engine == "separated" else 0, self.server.num_gpus)

    @property
    def gpu_kv_bytes(self) -> int:
        """HBM of a GPU that requests can hold."""
        share = self.costs.whole_hbm_share if self.policy.home == "hbm" else 1.0
        return round(self.server.hbm_kv_bytes * share)

    def request_hbm_bytes(self, num_tokens: int) -> int:
        """HBM that a request of `num_tokens`, output included, holds on its GPU."""
        rows = num_tokens if self.policy.home == "hbm" else min(num_tokens, self.hot_buffer)
        return num_tokens * self.model.index_bytes + rows * self.model.token_bytes

    def miss_law(self, context_tokens: int) -> MissLaw:
        """What says how many entries a request of `context_tokens` misses: what was measured where its context exceeds the hot
        buffer, else the buffer law."""
        if self.measured_misses is not None and context_tokens > self.hot_buffer:
            return MeasuredLaw(self.measured_misses)
        return BufferLaw.for_context(context_tokens, self.model.top_k, self.overlap)

    def home_bytes(self) -> int:
        """Capacity of all that the KV of the cluster can be kept in."""
        if self.policy.home == "pool":
            return self.num_devices * self.device_bytes
        if self.policy.home == "server":
            return self.num_servers * self.server.dram_bytes
        return self.num_servers * len(self.decode_gpus) * self.gpu_kv_bytes

    def running_limit(self, num_tokens: int) -> int:
        """How many requests of `num_tokens`, output included, can run at once; 0: not even one fits."""
        decode_gpus = self.num_servers * len(self.decode_gpus)
        by_hbm = self.gpu_kv_bytes // self.request_hbm_bytes(num_tokens) * decode_gpus
        by_home = self.home_bytes() // (num_tokens * (self.model.token_bytes + self.model.index_bytes))
        return by_hbm if self.policy.home == "hbm" else min(by_hbm, by_home)
