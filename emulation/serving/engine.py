"""One server: GPUs in lockstep that prefill, decode and fetch. Knows rates and queues; costs come from CostModel, loads of links
go to Bursts, results to a Recorder. It asks its agenda to be called when something ends next.

Rules, and where they come from:
- A request is computed on one GPU (DP attention) and waits there until its HBM fits (admission by capacity), first in,
  first out. Its indexer keys are loaded and its new tokens prefilled one request after the other per GPU.
- All GPUs step together. How prefill and decode share them is the spec's `engine`: 'prefill-first' (SGLang's scheduler with
  DP attention: while any GPU loads or prefills, none of the server decodes), 'chunked' (a step carries a chunk of prefill
  along), 'separated' (the first GPUs prefill, the others load and decode).
- Where the policy prefetches, a prefix is moved whole before its prefill. Each request has its own way over the network,
  bound by the request itself; the NIC's wire is shared. For a part of a transfer's time the server's decode stands still.
- Requests' own waits (keys, prefixes) are spread by `Waits`, steps by GapHistogram.
- A batch of constant composition advances at one rate, so an event is a change of composition, not a token; rates follow
  from `_set_rates` after each. Times are floats in ns: fractions matter to the conservation of bytes."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any

from emulation.serving.agenda import Agenda
from emulation.serving.bursts import Bursts
from emulation.serving.costs import CostModel
from emulation.serving.gpu import Gpu, Running, outstanding
from emulation.serving.lockstep import Lockstep
from emulation.serving.metrics import Recorder
from emulation.serving.routes import ClusterRoutes
from emulation.serving.workload import Request
from emulation.timing.links.flows import spread

REFRESH_NS = 1e9  # servers that share devices look at one another's load at least so often,
CROWDED_REFRESH_NS = 5e7  # and so often where it exceeds
CROWDED_LOAD = 0.7
QUIET_LOAD = 0.3  # up to this much, others leave room enough for loads and prefills
NOTICED_LOAD = 0.01  # a smaller change of others' load changes nothing


class Server:
    """GPUs in lockstep over shared links. `submit` takes a request; `on_finish` is told which one is done."""

    def __init__(
        self,
        number: int,
        agenda: Agenda,
        costs: CostModel,
        routes: ClusterRoutes,
        recorder: Recorder,
        next_wait: Callable[[], float],
        on_finish: Callable[[Request], None],
    ) -> None:
        spec = costs.spec
        self.number = number
        self._agenda, self._costs, self._routes, self._on_finish = agenda, costs, routes, on_finish
        self._next_wait = next_wait
        self._recorder, self._spent, self._meter = recorder, recorder.spent, recorder.meter()
        self._token_bytes = spec.model.token_bytes
        self._bursts = Bursts(routes, number)
        self._nics = routes.server_nics(number)
        self._wire = routes.prefetch_profile.adapter if routes.prefetch_profile else None
        self._shares_devices = spec.policy.home == "pool" and spec.num_servers > 1
        self._chunked, self._separated = spec.engine == "chunked", spec.engine == "separated"
        self.gpus = [Gpu(index, spec.gpu_kv_bytes) for index in range(spec.server.num_gpus)]
        self._decode_gpus = [self.gpus[index] for index in spec.decode_gpus]
        self._idle_prefill_gpus = [gpu for gpu in self.gpus if gpu.index not in spec.decode_gpus]
        self._prefill_queue: deque[Running] = deque()  # of a separated server
        self._timers: list[tuple[float, int, Callable[[Any], None], Running]] = []  # ends known beforehand
        self._loads: Lockstep[Gpu] = Lockstep()
        self._prefills: Lockstep[Gpu] = Lockstep()
        self._decodes: Lockstep[Running] = Lockstep()
        self._stages: tuple[Lockstep[Any], ...] = (self._loads, self._prefills, self._decodes)
        self._by_length: list[
            tuple[float, int, Running]
        ] = []  # what decodes, longest context first; may be done already
        self._num_timers = 0
        self._now_ns = 0.0
        self._held_until_ns = 0.0
        self._num_decoding = 0
        self._schedule_number = 0
        self._in_event = False
        self._compute_share = self._fetch_share = 0.0
        self._prefill_speeds = [costs.prefill_speed(number) for number in range(spec.server.num_gpus + 1)]
        self.outstanding = 0

    def submit(self, request: Request, arrived_ns: float, cached_len: int) -> None:
        """Take a request now; it was sent at `arrived_ns`."""
        gpu = min(self._decode_gpus, key=outstanding)
        gpu.outstanding += 1
        self.outstanding += 1
        cost = self._costs.of_request(request.prompt_len, request.output_len, cached_len)
        now_ns = self._agenda.now_ns
        gpu.waiting.append(Running(request, cost, gpu, arrived_ns, now_ns, self._next_wait()))
        if self._in_event:
            self._admit(gpu)
        elif cost.prefetch_ns or self._separated or gpu.loading is None:
            self._advance(now_ns)
            if self._admit(gpu):
                self._set_rates()

    def on_time(self, schedule_number: int, due: Lockstep[Any] | None) -> None:
        """Handle what ends now; a call that a later schedule has overtaken is none."""
        if schedule_number != self._schedule_number:
            return
        self._advance(self._agenda.now_ns)
        if due is not None:
            due.advance_to_first()
        elif self._is_mere_look():
            self._schedule()
            return
        self._in_event = True
        while self._timers and self._timers[0][0] <= self._now_ns:
            _, _, end, running = heappop(self._timers)
            end(running)
        if self._loads.rate:
            for gpu in self._loads.pop_ended():
                self._end_load(gpu)
        if self._prefills.rate:
            for gpu in self._prefills.pop_ended():
                self._end_prefilling(gpu)
        if self._decodes.rate:
            for running in self._decodes.pop_ended():
                self._end_decode(running)
        self._in_event = False
        self._set_rates()

    def carry_bytes(self) -> None:
        """Count the bytes of all that has finished on the links that they crossed."""
        links, routes = self._routes.links, self._routes.server_routes(self.number)
        links.carry(spread(routes.read, [gpu.read_bytes for gpu in self.gpus]), 1)
        links.carry(spread(routes.write, [gpu.written_bytes for gpu in self.gpus]), 1)
        for gpu, nic in zip(self.gpus, self._nics, strict=False):
            links.carry({nic.read: gpu.received_bytes, nic.write: gpu.sent_bytes}, 1)

    def _is_mere_look(self) -> bool:
        """Whether nothing ends now and others' load is what it was."""
        ends = self._timers and self._timers[0][0] <= self._now_ns
        held = self._num_decoding and not self._decodes.rate and self._held_until_ns <= self._now_ns
        return not ends and not held and not self._bursts.read.has_changed(NOTICED_LOAD)

    def _advance(self, now_ns: float) -> None:
        """Let time pass at the present rates."""
        elapsed_ns = now_ns - self._now_ns
        if elapsed_ns <= 0:
            return
        self._now_ns = now_ns
        self._loads.done += self._loads.rate * elapsed_ns
        self._prefills.done += self._prefills.rate * elapsed_ns
        if self._num_decoding:
            steps = self._decodes.rate * elapsed_ns
            self._decodes.done += steps
            if steps:
                self._meter.decode(elapsed_ns, self._num_decoding, steps, self._compute_share, self._fetch_share)
            else:
                held = not self._prefills.heap and not self._loads.heap
                self._meter.stand_still(elapsed_ns, self._num_decoding, held)

    def _admit(self, gpu: Gpu) -> bool:
        """Let requests in whose HBM fits, in order, and start what the GPU has free hands for; whether anything began."""
        began = False
        while gpu.waiting and gpu.waiting[0].cost.hbm_bytes <= gpu.free_hbm_bytes:
            running = gpu.waiting.popleft()
            gpu.free_hbm_bytes -= running.cost.hbm_bytes
            began = True
            if running.cost.prefetch_ns:
                self._prefetch(running)
            else:
                self._make_ready(running)
        return self._start_prefill(gpu) or began

    def _prefetch(self, running: Running) -> None:
        """Move the cached prefix: the request's own time, and no sooner than the NIC's wire has carried all given to it."""
        now_ns, gpu, cost = self._now_ns, running.gpu, running.cost
        assert self._wire is not None
        self._spent.queue += now_ns - running.since_ns
        running.since_ns = now_ns
        gpu.wire_free_ns = max(now_ns, gpu.wire_free_ns) + cost.prefetch_bytes / self._wire.read_bytes_per_ns
        gpu.received_bytes += cost.prefetch_bytes
        self._set_timer(
            max(now_ns + cost.prefetch_ns * running.own_wait, gpu.wire_free_ns), self._end_prefetch, running
        )

    def _end_prefetch(self, running: Running) -> None:
        self._spent.prefetch += self._now_ns - running.since_ns
        running.since_ns = self._now_ns
        self._make_ready(running)
        self._start_prefill(running.gpu)

    def _make_ready(self, running: Running) -> None:
        if self._separated:
            self._prefill_queue.append(running)
        else:
            running.gpu.ready.append(running)

    def _start_prefill(self, gpu: Gpu) -> bool:
        """Begin the next request of the GPU, or of a separated server, where there is one and someone to do it."""
        if self._separated:
            began = bool(self._prefill_queue and self._idle_prefill_gpus)
            while self._prefill_queue and self._idle_prefill_gpus:
                self._start_load(self._idle_prefill_gpus.pop(), self._prefill_queue.popleft())
            return began
        if not gpu.ready or gpu.loading is not None:
            return False
        self._start_load(gpu, gpu.ready.popleft())
        return True

    def _start_load(self, gpu: Gpu, running: Running) -> None:
        self._spent.queue += self._now_ns - running.since_ns
        running.since_ns = self._now_ns
        gpu.loading = running
        self._loads.add(running.cost.load_ns * running.own_wait, gpu)
        self._bursts.add_load(gpu.index, running.cost.index_bytes / running.cost.load_ns)

    def _end_load(self, gpu: Gpu) -> None:
        running = gpu.loading
        assert running is not None
        cost = running.cost
        gpu.read_bytes += cost.index_bytes
        if self._loads.heap:
            self._bursts.add_load(gpu.index, -cost.index_bytes / cost.load_ns)
        else:
            self._bursts.loads = list(self._bursts.nothing)
        if cost.prefill_ns:
            self._prefills.add(cost.prefill_ns, gpu)
            self._bursts.add_prefill(gpu.index, cost.written_bytes / cost.prefill_ns)
        else:
            self._end_prefill(gpu)

    def _end_prefilling(self, gpu: Gpu) -> None:
        assert gpu.loading is not None
        cost = gpu.loading.cost
        if self._prefills.heap:
            self._bursts.add_prefill(gpu.index, -cost.written_bytes / cost.prefill_ns)
        else:
            self._bursts.prefills = list(self._bursts.nothing)
        self._end_prefill(gpu)

    def _end_prefill(self, gpu: Gpu) -> None:
        running = gpu.loading
        assert running is not None
        gpu.loading = None
        cost = running.cost
        gpu.written_bytes += cost.written_bytes
        gpu.sent_bytes += cost.new_transfer_bytes
        running.gpu.received_bytes += cost.new_transfer_bytes
        running.first_token_ns = self._now_ns
        self._spent.prefill += self._now_ns - running.since_ns
        if cost.hold_ns:
            self._held_until_ns = max(self._now_ns, self._held_until_ns) + cost.hold_ns
        if self._separated:
            self._idle_prefill_gpus.append(gpu)
            running.since_ns = self._now_ns
            self._set_timer(self._now_ns + cost.hand_over_ns * running.own_wait, self._end_hand_over, running)
        else:
            self._start_decode(running)
        self._admit(gpu)

    def _end_hand_over(self, running: Running) -> None:
        """The decoding GPU has what a prefilling one left it."""
        self._spent.stalled += self._now_ns - running.since_ns
        running.gpu.read_bytes += running.cost.handed_bytes
        self._start_decode(running)

    def _start_decode(self, running: Running) -> None:
        cost, gpu = running.cost, running.gpu
        if running.request.output_len == 1:
            self._finish(running)
            return
        running.decodes = True
        gpu.num_decoding += 1
        self._num_decoding += 1
        gpu.tokens += cost.context_tokens
        gpu.entries += cost.entries
        gpu.work_ns = self._costs.gpu_work_ns(gpu.num_decoding, gpu.tokens)
        self._bursts.add(gpu.index, cost.entries, 1)
        self._decodes.add(running.request.output_len - 1, running)
        self._num_timers += 1
        heappush(self._by_length, (-cost.context_tokens, self._num_timers, running))

    def _end_decode(self, running: Running) -> None:
        """The last token is there. Sums of nothing are put to 0, where differences would leave roundings."""
        cost, gpu = running.cost, running.gpu
        running.decodes = False
        gpu.num_decoding -= 1
        self._num_decoding -= 1
        gpu.tokens = gpu.tokens - cost.context_tokens if gpu.num_decoding else 0.0
        gpu.entries = gpu.entries - cost.entries if gpu.num_decoding else 0.0
        gpu.work_ns = self._costs.gpu_work_ns(gpu.num_decoding, gpu.tokens)
        self._bursts.add(gpu.index, -cost.entries, -1)
        if not self._num_decoding:
            self._bursts.entries, self._bursts.requests = list(self._bursts.nothing), list(self._bursts.nothing)
        steps = running.request.output_len - 1
        gpu.read_bytes += cost.entries * steps * self._token_bytes
        gpu.written_bytes += steps * self._token_bytes if self._routes.fetch_path else 0
        self._finish(running)

    def _finish(self, running: Running) -> None:
        cost, gpu = running.cost, running.gpu
        gpu.outstanding -= 1
        gpu.free_hbm_bytes += cost.hbm_bytes
        self.outstanding -= 1
        self._recorder.finish(running.request, running.arrived_ns, running.first_token_ns, self._now_ns, cost.entries)
        self._admit(gpu)
        self._on_finish(running.request)

    def _set_timer(self, at_ns: float, end: Callable[[Any], None], running: Running) -> None:
        self._num_timers += 1
        heappush(self._timers, (at_ns, self._num_timers, end, running))

    def _set_rates(self) -> None:
        """New rates after a change of composition, the flows that follow from them, and the time of the next event."""
        loads, prefills, bursts, now_ns = self._loads, self._prefills, self._bursts, self._now_ns
        read, write = bursts.read, bursts.write
        if self._shares_devices:
            read.look()
            write.look()
        loads.rate = _allowed(1.0, bursts.loads, read.free) if loads.heap else 0.0
        if prefills.heap:
            prefills.rate = _allowed(self._prefill_speeds[len(prefills.heap)], bursts.prefills, write.free)
        else:
            prefills.rate = 0.0
        blocked = not self._separated and (loads.heap or (prefills.heap and not self._chunked))
        decoding = self._num_decoding and not blocked and self._held_until_ns <= now_ns
        self._decodes.rate = self._decode_rate() if decoding else 0.0
        if self._shares_devices:
            row_rate = self._decodes.rate * self._token_bytes
            read.book(bursts.loads, loads.rate, bursts.entries, row_rate)
            write.book(bursts.prefills, prefills.rate, bursts.requests, row_rate)
        self._schedule()

    def _decode_rate(self) -> float:
        """Steps per ns."""
        bursts, token_bytes = self._bursts, self._token_bytes
        by_length = self._by_length
        while not by_length[0][2].decodes:
            heappop(by_length)
        compute_ns = self._costs.compute_ns(max([gpu.work_ns for gpu in self._decode_gpus]), -by_length[0][0])
        fetch_ns = write_ns = 0.0
        if bursts.entries:
            burst = max([entries / rate for entries, rate in zip(bursts.entries, bursts.read.free, strict=True)])
            most = max([gpu.entries for gpu in self._decode_gpus])
            fetch_ns = self._routes.layers_fetch_ns(most, burst * token_bytes, bursts.read.others)
            write_ns = (
                max([num / rate for num, rate in zip(bursts.requests, bursts.write.free, strict=True)]) * token_bytes
            )
        own_ns = step_ns = max(compute_ns + fetch_ns, write_ns)
        if self._chunked and self._prefills.heap:
            step_ns += self._add_chunk(own_ns)
        self._compute_share, self._fetch_share = compute_ns / step_ns, (own_ns - compute_ns) / step_ns
        return 1 / step_ns

    def _add_chunk(self, step_ns: float) -> float:
        """Time of the chunk of prefill that each step of `step_ns` carries along; prefill advances by it."""
        running = [gpu.loading for gpu in self._prefills.jobs() if gpu.loading is not None]
        rate = self._prefills.rate
        chunk_ns = max(each.cost.prefill_ns / max(1.0, each.cost.chunks) for each in running) / rate
        self._prefills.rate = rate * chunk_ns / (step_ns + chunk_ns)
        return chunk_ns

    def _schedule(self) -> None:
        self._schedule_number += 1
        in_ns, due, now_ns = inf, None, self._now_ns
        for stage in self._stages:
            if stage.rate and stage.heap:
                ends_in_ns = (stage.heap[0][0] - stage.done) / stage.rate
                if ends_in_ns < in_ns:
                    in_ns, due = ends_in_ns if ends_in_ns > 0 else 0.0, stage
        if self._timers and self._timers[0][0] - now_ns < in_ns:
            in_ns, due = max(0.0, self._timers[0][0] - now_ns), None
        if self._num_decoding and 0 < self._held_until_ns - now_ns < in_ns:
            in_ns, due = self._held_until_ns - now_ns, None
        if in_ns == inf:
            return
        if self._shares_devices and in_ns > CROWDED_REFRESH_NS:
            others = self._bursts.read.others
            if self._decodes.rate or others > QUIET_LOAD:
                refresh_ns = CROWDED_REFRESH_NS if others > CROWDED_LOAD else REFRESH_NS
                if in_ns > refresh_ns:
                    in_ns, due = refresh_ns, None
        self._agenda.call(now_ns + in_ns, self, self._schedule_number, due)


def _allowed(speed: float, flow: list[float], free: list[float]) -> float:
    """`speed`, or less where a group of links has no room for `flow`, bytes per ns at speed 1."""
    for group, num_bytes in enumerate(flow):
        if num_bytes * speed > free[group]:
            speed = free[group] / num_bytes
    return speed
