"""What a server keeps of each GPU and of each request on its way. Knows queues and sums; engine.py moves them on."""

from collections import deque

from emulation.serving.costs import RequestCost
from emulation.serving.workload import Request


class Running:
    """A request on its way through a server. since_ns: when its present state began; own_wait: factor on its waits."""

    __slots__ = ("arrived_ns", "cost", "decodes", "first_token_ns", "gpu", "own_wait", "request", "since_ns")

    def __init__(
        self, request: Request, cost: RequestCost, gpu: "Gpu", arrived_ns: float, now_ns: float, own_wait: float
    ) -> None:
        self.request, self.cost, self.gpu = request, cost, gpu
        self.arrived_ns, self.since_ns, self.own_wait = arrived_ns, now_ns, own_wait
        self.first_token_ns = 0.0
        self.decodes = False


class Gpu:
    """Queues and sums of one GPU. work_ns: its part of a step's compute; bytes: of KV and indexer keys, for its links."""

    __slots__ = ("entries", "free_hbm_bytes", "index", "loading", "num_decoding", "outstanding", "read_bytes", "ready",
                 "received_bytes", "sent_bytes", "tokens", "waiting", "wire_free_ns", "work_ns", "written_bytes")  # fmt: skip

    def __init__(self, index: int, hbm_bytes: int) -> None:
        self.index = index
        self.free_hbm_bytes = hbm_bytes
        self.waiting: deque[Running] = deque()  # for HBM
        self.ready: deque[Running] = deque()  # for its prefill
        self.loading: Running | None = None  # or prefilling
        self.num_decoding = self.outstanding = 0
        self.entries = self.tokens = self.work_ns = 0.0  # of all that decode: missed per layer and step; of context
        self.wire_free_ns = 0.0  # when its NIC has moved all that it has been given
        self.read_bytes = self.written_bytes = self.received_bytes = self.sent_bytes = 0.0


def outstanding(gpu: Gpu) -> int:
    """Requests that are on the GPU or wait for it."""
    return gpu.outstanding
