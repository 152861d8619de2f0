"""One server: GPUs in lockstep that prefill, decode and fetch. Knows rates and queues; costs come from CostModel, bytes and
loads go to Links, results to a Recorder. Of SimPy it uses the time and one timer: each server sets it for its next event.

Rules, and where they come from:
- A request is computed on one GPU (DP attention) and waits there until its HBM fits (admission by capacity), first in,
  first out.
- All GPUs step together, and a server in which any GPU prefills does not decode (SGLang's scheduler with DP attention:
  prefill first, ranks without one idle along).
- Where the policy prefetches, a prefix is moved whole before its prefill, one per GPU at a time; the transfers of a server
  share its transfer engine equally. While any is in flight, the server computes slower by `prefetch_slowdown`. New KV is
  moved out in the same way beside the prefill, and back beside the first steps.
- A batch of constant composition advances at one rate, so an event is a change of composition, not a token; rates follow
  from `_set_rates` after each. Times are floats in ns: fractions matter to the conservation of bytes."""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import simpy

from emulation.serving.costs import NO_COST, CostModel, RequestCost
from emulation.serving.lockstep import Lockstep
from emulation.serving.metrics import Recorder, StepShares
from emulation.serving.routes import ClusterRoutes
from emulation.serving.workload import Request
from emulation.timing.links.flows import Flow, spread

REFRESH_NS = 1e9  # servers that share devices look at one another's load at least so often,
CROWDED_REFRESH_NS = 5e7  # and so often where it exceeds
CROWDED_LOAD = 0.7


class Running:
    """A request on its way through a server."""

    __slots__ = ("arrived_ns", "cost", "first_token_ns", "gpu", "request")

    def __init__(self, request: Request, cost: RequestCost, gpu: "Gpu", now_ns: float) -> None:
        self.request, self.cost, self.gpu = request, cost, gpu
        self.arrived_ns = now_ns
        self.first_token_ns = 0.0


class PrefixMove(NamedTuple):
    """A prefix on its way over `link`, the number of a NIC's direction. work_ns: what it takes alone on the server;
    before_prefill: the request's prefill waits for it."""

    running: Running
    link: int
    work_ns: float
    num_bytes: int
    before_prefill: bool


class Gpu:
    """Queues and sums of one GPU."""

    __slots__ = ("decoding", "entries", "free_hbm_bytes", "index", "moving", "outstanding", "prefilling", "ready", "to_move",
                 "tokens", "waiting")  # fmt: skip

    def __init__(self, index: int, hbm_bytes: int) -> None:
        self.index = index
        self.free_hbm_bytes = hbm_bytes
        self.waiting: deque[Running] = deque()  # for HBM
        self.to_move: deque[PrefixMove] = deque()
        self.moving: PrefixMove | None = None
        self.ready: deque[Running] = deque()  # for prefill
        self.prefilling: Running | None = None
        self.decoding: set[Running] = set()
        self.outstanding = 0
        self.entries = 0.0  # missed per layer and step, of all that run
        self.tokens = 0.0  # of context, of all that run

    def start(self, running: Running) -> None:
        """The request decodes from now on."""
        self.decoding.add(running)
        self.entries += running.cost.entries
        self.tokens += running.cost.context_tokens

    def finish(self, running: Running) -> None:
        """The request is done. Sums of nothing are put to 0, where differences would leave roundings."""
        self.decoding.discard(running)
        self.outstanding -= 1
        self.free_hbm_bytes += running.cost.hbm_bytes
        self.entries = self.entries - running.cost.entries if self.decoding else 0.0
        self.tokens = self.tokens - running.cost.context_tokens if self.decoding else 0.0


class Server:
    """GPUs in lockstep over shared links. `submit` takes a request; `on_finish` is told which one is done."""

    def __init__(
        self,
        number: int,
        env: Any,
        costs: CostModel,
        routes: ClusterRoutes,
        recorder: Recorder,
        on_finish: Callable[[Request], None],
    ) -> None:
        spec = costs.spec
        self.number = number
        self._env, self._costs, self._on_finish = env, costs, on_finish
        self._recorder, self._meter = recorder, recorder.meter()
        self._links, self._fetch_ns = routes.links, routes.fetch_ns
        self._reads, self._writes = routes.server_routes(number)
        self._nics = routes.server_nics(number)
        self._shares_devices = spec.policy.home == "pool" and spec.num_servers > 1
        self.gpus = [Gpu(index, spec.server.hbm_kv_bytes) for index in range(spec.server.num_gpus)]
        self._moves: Lockstep[Gpu] = Lockstep()
        self._loads: Lockstep[Gpu] = Lockstep()
        self._prefills: Lockstep[Gpu] = Lockstep()
        self._decodes: Lockstep[Running] = Lockstep()
        self._stages: tuple[Lockstep[Any], ...] = (self._moves, self._loads, self._prefills, self._decodes)
        self._now_ns = 0.0
        self._schedule_number = 0
        self._in_event = False
        self._longest_stale = False
        self._longest_tokens = 0.0
        self._num_waiting = 0
        self._num_prefetching = 0
        self._step_shares = StepShares(0.0, 0.0)
        self._flow: Flow = {}  # bytes per ns now
        self._others_load = 0.0  # on the busiest link that this server uses
        self.outstanding = 0

    def submit(self, request: Request, cached_len: int) -> None:
        """Take a request now."""
        self._advance(self._env.now)
        gpu = min(self.gpus, key=_outstanding)
        gpu.outstanding += 1
        self.outstanding += 1
        cost = self._costs.of_request(request.prompt_len, request.output_len, cached_len)
        gpu.waiting.append(Running(request, cost, gpu, self._now_ns))
        self._num_waiting += 1
        self._admit(gpu)
        if not self._in_event:
            self._set_rates()

    def _advance(self, now_ns: float) -> None:
        """Let time pass at the present rates: work, bytes and the recorder's integrals."""
        elapsed_ns = now_ns - self._now_ns
        if elapsed_ns <= 0:
            return
        self._now_ns = now_ns
        for stage in self._stages:
            self._links.carry(stage.flow, stage.rate * elapsed_ns)
            stage.advance(elapsed_ns)
        num_prefilling = len(self._loads) + len(self._prefills)
        self._meter.wait(elapsed_ns, self._num_waiting, self._num_prefetching, num_prefilling)
        self._meter.decode(elapsed_ns, len(self._decodes), self._decodes.rate * elapsed_ns, self._step_shares)

    def _on_time(self, schedule_number: int, due: Lockstep[Any] | None) -> None:
        if schedule_number != self._schedule_number:
            return
        self._advance(self._env.now)
        if due is not None:
            due.advance_to_first()
        self._in_event = True
        for gpu in self._moves.pop_ended():
            self._end_move(gpu)
        for gpu in self._loads.pop_ended():
            self._end_load(gpu)
        for gpu in self._prefills.pop_ended():
            self._end_prefill(gpu)
        for running in self._decodes.pop_ended():
            self._end_decode(running)
        self._in_event = False
        self._set_rates()

    def _admit(self, gpu: Gpu) -> None:
        """Let requests in whose HBM fits, in order, and start what the GPU has free hands for."""
        while gpu.waiting and gpu.waiting[0].cost.hbm_bytes <= gpu.free_hbm_bytes:
            running = gpu.waiting.popleft()
            cost = running.cost
            gpu.free_hbm_bytes -= cost.hbm_bytes
            if cost.prefetch_ns:
                self._num_waiting -= 1
                self._num_prefetching += 1
                link = self._nics[gpu.index].read
                self._move(PrefixMove(running, link, cost.prefetch_ns, cost.prefetch_bytes, before_prefill=True))
            else:
                gpu.ready.append(running)
        if gpu.ready and gpu.prefilling is None:
            self._start_prefill(gpu, gpu.ready.popleft())

    def _start_prefill(self, gpu: Gpu, running: Running) -> None:
        gpu.prefilling = running
        self._num_waiting -= 1
        self._loads.add(running.cost.load_ns, gpu)

    def _move_new(self, running: Running, write: bool) -> None:
        """Move a request's new KV out, or back in, beside what the GPUs do."""
        cost = running.cost
        if cost.new_transfer_ns:
            nic = self._nics[running.gpu.index]
            link = nic.write if write else nic.read
            self._move(PrefixMove(running, link, cost.new_transfer_ns, cost.new_transfer_bytes, before_prefill=False))

    def _move(self, move: PrefixMove) -> None:
        """Queue a move on its GPU; they go one after the other."""
        gpu = move.running.gpu
        gpu.to_move.append(move)
        if gpu.moving is None:
            self._start_move(gpu)

    def _start_move(self, gpu: Gpu) -> None:
        gpu.moving = gpu.to_move.popleft()
        self._moves.add(gpu.moving.work_ns, gpu)

    def _end_move(self, gpu: Gpu) -> None:
        move = gpu.moving
        assert move is not None
        gpu.moving = None
        if gpu.to_move:
            self._start_move(gpu)
        if move.before_prefill:
            self._num_prefetching -= 1
            self._num_waiting += 1
            gpu.ready.append(move.running)
            self._admit(gpu)

    def _end_load(self, gpu: Gpu) -> None:
        assert gpu.prefilling is not None
        self._prefills.add(gpu.prefilling.cost.prefill_ns, gpu)
        self._move_new(gpu.prefilling, write=True)

    def _end_prefill(self, gpu: Gpu) -> None:
        running = gpu.prefilling
        assert running is not None
        gpu.prefilling = None
        running.first_token_ns = self._now_ns
        self._move_new(running, write=False)
        gpu.start(running)
        self._longest_tokens = max(self._longest_tokens, running.cost.context_tokens)
        if running.request.output_len > 1:
            self._decodes.add(running.request.output_len - 1, running)
        else:
            self._end_decode(running)
        self._admit(gpu)

    def _end_decode(self, running: Running) -> None:
        running.gpu.finish(running)
        self.outstanding -= 1
        self._longest_stale |= running.cost.context_tokens >= self._longest_tokens
        self._recorder.finish(
            running.request, running.arrived_ns, running.first_token_ns, self._now_ns, running.cost.entries
        )
        self._admit(running.gpu)
        self._on_finish(running.request)

    def _set_rates(self) -> None:
        """New rates after a change of composition, the flows that follow from them, and the time of the next event."""
        speed = 1 - self._costs.spec.costs.prefetch_slowdown if len(self._moves) else 1.0
        self._others_load = 0.0
        self._set_moves()
        self._set_loads(speed)
        self._set_prefills(speed)
        self._set_decodes(speed)
        flow: dict[int, float] = {}
        for stage in self._stages:
            for link, num_bytes in stage.flow.items():
                flow[link] = flow.get(link, 0.0) + num_bytes * stage.rate
        self._links.exchange(self._flow, flow)
        self._flow = flow
        self._schedule()

    def _set_moves(self) -> None:
        self._moves.rate = 1 / max(1, len(self._moves))
        self._moves.flow = {
            gpu.moving.link: gpu.moving.num_bytes / gpu.moving.work_ns for gpu in self.gpus if gpu.moving is not None
        }

    def _set_loads(self, speed: float) -> None:
        self._loads.stop()
        if len(self._loads):
            read = [cost.index_bytes / cost.load_ns for cost in self._costs_of(self._loads)]
            self._loads.flow = spread(self._reads, read)
            self._loads.rate = self._allowed(speed, self._loads.flow)

    def _set_prefills(self, speed: float) -> None:
        self._prefills.stop()
        if len(self._prefills):
            written = [cost.written_bytes / cost.prefill_ns for cost in self._costs_of(self._prefills)]
            self._prefills.flow = spread(self._writes, written)
            speed *= self._costs.prefill_speed(len(self._prefills))
            self._prefills.rate = self._allowed(speed, self._prefills.flow)

    def _set_decodes(self, speed: float) -> None:
        self._decodes.stop()
        if not len(self._decodes) or len(self._loads) or len(self._prefills):
            return
        costs, gpus, model = self._costs, self.gpus, self._costs.spec.model
        fullest_ns = max(costs.gpu_work_ns(len(gpu.decoding), gpu.tokens) for gpu in gpus)
        compute_ns = costs.compute_ns(fullest_ns, self._longest())
        read = spread(self._reads, [gpu.entries * model.token_bytes for gpu in gpus])
        written = spread(self._writes, [len(gpu.decoding) * model.token_bytes for gpu in gpus])
        read_ns, load = self._squeeze(read)
        layer_ns = self._fetch_ns(max(gpu.entries for gpu in gpus), read_ns / model.num_layers, load)
        step_ns = max(compute_ns + layer_ns * model.num_layers, self._squeeze(written)[0])
        self._step_shares = StepShares(compute_ns / step_ns * speed, (1 - compute_ns / step_ns) * speed)
        self._decodes.flow, self._decodes.rate = read | written, speed / step_ns

    def _costs_of(self, stage: Lockstep[Gpu]) -> list[RequestCost]:
        """Cost of what each GPU has in a stage; an idle one's is NO_COST."""
        costs = [NO_COST] * len(self.gpus)
        for gpu in stage.jobs():
            assert gpu.prefilling is not None
            costs[gpu.index] = gpu.prefilling.cost
        return costs

    def _allowed(self, speed: float, flow: Flow) -> float:
        """`speed`, or less where others leave a link of `flow` (bytes per ns at speed 1) no room for it."""
        squeezed, _ = self._squeeze(flow)
        return min(speed, 1 / squeezed) if squeezed else speed

    def _squeeze(self, flow: Flow) -> tuple[float, float]:
        squeezed_ns, load = self._links.squeeze(flow, self._flow)
        self._others_load = max(self._others_load, load)
        return squeezed_ns, load

    def _longest(self) -> float:
        if self._longest_stale:
            self._longest_tokens = max(
                (running.cost.context_tokens for gpu in self.gpus for running in gpu.decoding), default=0.0
            )
            self._longest_stale = False
        return self._longest_tokens

    def _schedule(self) -> None:
        self._schedule_number += 1
        number = self._schedule_number
        in_ns, due = inf, None
        for stage in self._stages:
            ends_in_ns = stage.next_end_in()
            if ends_in_ns < in_ns:
                in_ns, due = ends_in_ns, stage
        if due is None:
            return
        refresh_ns = CROWDED_REFRESH_NS if self._others_load > CROWDED_LOAD else REFRESH_NS
        if self._shares_devices and in_ns > refresh_ns:
            in_ns, due = refresh_ns, None
        timeout = simpy.Timeout(self._env, in_ns)
        timeout.callbacks.append(lambda _: self._on_time(number, due))


def _outstanding(gpu: Gpu) -> int:
    return gpu.outstanding
