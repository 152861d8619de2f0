"""A cluster at work: a workload sent to servers that share links. One call, `simulate`, runs it. Knows servers and requests;
the engine's rules are in `engine`.

A request takes its tokenising before a server hears of it; the server is chosen then."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import cycle, islice
from math import exp
from random import Random
from statistics import NormalDist

from emulation.errors import InputError
from emulation.serving.agenda import Agenda
from emulation.serving.costs import CostModel
from emulation.serving.engine import Server
from emulation.serving.metrics import Recorder
from emulation.serving.overload import Overload, find_overload
from emulation.serving.prefixes import PrefixStore
from emulation.serving.routes import ClusterRoutes
from emulation.serving.slo import GoodCounter
from emulation.serving.spec import ClusterSpec
from emulation.serving.workload import NS_PER_S, Request, Workload
from emulation.timing.interval import Interval
from emulation.timing.links.flows import Links

PROGRESS_EVERY = 4096
NUM_WAITS = 1021  # a prime: no period of a workload falls together with theirs


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `links` has each link's bytes and peak load; modelled time throughout."""

    spec: ClusterSpec
    recorder: Recorder
    links: Links
    num_cached_tokens: int
    open_loop: bool

    def overload(self) -> Overload | None:
        """Whether requests came faster than they were served; None of a closed loop, which waits for itself."""
        if not self.open_loop:
            return None
        return find_overload(self.recorder.arrived_ns, self.recorder.ttft_ns, self.spec.num_gpus)

    def goodput(self) -> Interval | None:
        """Requests per second that meet the SLO, with the errors of the fit; None without one."""
        good = self.recorder.good
        return good.rate(self.recorder.finished_ns / NS_PER_S) if good else None

    def bytes_by_link(self) -> dict[str, int]:
        """Bytes that each link carried; links that carried none are left out."""
        links = self.links
        return {name: round(carried) for name, carried in zip(links.names, links.num_bytes, strict=True) if carried}

    def utilisation_by_link(self) -> dict[str, float]:
        """Mean load (0..1) of each link that carried bytes, over the run's duration."""
        links, duration_ns = self.links, self.recorder.finished_ns
        return {
            name: carried / rate / duration_ns
            for name, rate, carried in zip(links.names, links.bytes_per_ns, links.num_bytes, strict=True)
            if carried
        }


def simulate(
    spec: ClusterSpec,
    workload: Workload,
    on_progress: Callable[[int], None] | None = None,
    good: GoodCounter | None = None,
) -> Outcome:
    """Serve every request of `workload`; same arguments, same outcome. `on_progress` hears how many are done; `good` counts those
    that meet its SLO.
    Raises InputError where a request is too large for the tier."""
    if not spec.running_limit(workload.longest_len):
        raise InputError(why_not(spec, workload.longest_len))
    return _Run(spec, workload, on_progress, good).run()


def why_not(spec: ClusterSpec, num_tokens: int) -> str:
    """Why a request of `num_tokens`, output included, does not fit, in the words of an error."""
    hbm = spec.request_hbm_bytes(num_tokens)
    return (
        f"tier {spec.tier!r}: a request of {num_tokens} tokens needs {hbm / 1e9:.1f} GB of one GPU's "
        f"{spec.server.hbm_kv_bytes / 1e9:.0f} GB of HBM for KV, in a home of {spec.home_bytes() / 1e9:.0f} GB; "
        "take a shorter context, a smaller hot buffer or more memory"
    )


def waits(spread: float) -> list[float]:
    """Factors on requests' waits, in the order in which requests take them: the quantiles of a lognormal law whose mean is 1,
    shuffled once and for all, so that a few hundred requests have the law's own spread."""
    normal, order = NormalDist(), list(range(NUM_WAITS))
    Random(0).shuffle(order)
    factors = [exp(spread * normal.inv_cdf((place + 0.5) / NUM_WAITS)) for place in order]
    return [factor * NUM_WAITS / sum(factors) for factor in factors] if spread else [1.0]


class _Run:
    """The state of one simulation."""

    def __init__(
        self,
        spec: ClusterSpec,
        workload: Workload,
        on_progress: Callable[[int], None] | None,
        good: GoodCounter | None,
    ) -> None:
        self._spec, self._workload, self._on_progress = spec, workload, on_progress
        self._agenda = Agenda()
        self._routes = ClusterRoutes(spec)
        self._recorder = Recorder(spec.model.top_k, spec.costs.step_spread, good)
        self._requests: Iterator[Request] = workload.requests()
        self._costs = CostModel(spec, self._routes)
        next_wait = cycle(waits(spec.costs.wait_spread)).__next__
        self._servers = [
            Server(number, self._agenda, self._costs, self._routes, self._recorder, next_wait, self._on_finish)
            for number in range(spec.num_servers)
        ]
        self._open_loop: Iterator[tuple[float, int, Request]] = iter(())
        self._in_turn = cycle(self._servers)
        kept_bytes = spec.model.token_bytes + spec.model.index_bytes
        block_tokens = workload.block_tokens or 1  # None: no request has ids
        num_blocks = spec.home_bytes() // (block_tokens * kept_bytes)
        self._prefixes = (
            [PrefixStore(num_blocks, block_tokens)] * spec.num_servers
            if spec.policy.shared
            else [PrefixStore(num_blocks // spec.num_servers, block_tokens) for _ in range(spec.num_servers)]
        )
        num_prefixes = min(workload.num_prompts, workload.num_prefixes)
        self._all_prefixes_fit = spec.home_bytes() >= num_prefixes * workload.longest_len * kept_bytes
        self._num_cached_tokens = 0

    def run(self) -> Outcome:
        if self._workload.max_concurrency is None:
            self._open_loop = self._tokenised()
            self._await_next()
        else:
            for request in islice(self._requests, self._workload.max_concurrency):
                self._send(request, 0.0)
        self._agenda.run()
        assert self._recorder.completed == self._workload.num_prompts, "a request was lost"
        for server in self._servers:
            server.carry_bytes()
        open_loop = self._workload.max_concurrency is None
        return Outcome(self._spec, self._recorder, self._routes.links, self._num_cached_tokens, open_loop)

    def on_time(self, number: int, subject: tuple[float, Request]) -> None:
        """A request (when it was sent, what it is) has been tokenised; of an open loop (number 1) the next one is awaited."""
        self._submit(*subject)
        if number:
            self._await_next()

    def _tokenised(self) -> Iterator[tuple[float, int, Request]]:
        """The requests of an open loop by the time at which they have been tokenised, (that, their number, themselves)."""
        under_way: list[tuple[float, int, Request]] = []
        for number, request in enumerate(self._requests):
            while under_way and under_way[0][0] <= request.arrival_ns:
                yield heappop(under_way)
            heappush(under_way, (request.arrival_ns + self._costs.tokenise_ns(request.prompt_len), number, request))
        while under_way:
            yield heappop(under_way)

    def _await_next(self) -> None:
        """Let the next request of an open loop come at its time."""
        for at_ns, _, request in self._open_loop:
            self._recorder.spent.tokenise += at_ns - request.arrival_ns
            self._agenda.call(at_ns, self, 1, (request.arrival_ns, request))
            return

    def _send(self, request: Request, sent_ns: float) -> None:
        tokenise_ns = self._costs.tokenise_ns(request.prompt_len)
        self._recorder.spent.tokenise += tokenise_ns
        self._agenda.call(sent_ns + tokenise_ns, self, 0, (sent_ns, request))

    def _on_finish(self, finished: Request) -> None:
        if self._on_progress and self._recorder.completed % PROGRESS_EVERY == 0:
            self._on_progress(self._recorder.completed)
        if finished.next_turn is not None:
            turn = finished.next_turn
            self._send(turn, max(self._agenda.now_ns + turn.delay_ns, turn.arrival_ns))
        elif self._workload.max_concurrency is not None and (request := next(self._requests, None)):
            self._send(request, self._agenda.now_ns)

    def _submit(self, arrived_ns: float, request: Request) -> None:
        server = self._place(request)
        cached_len = self._cached_len(request, self._prefixes[server.number])
        self._num_cached_tokens += cached_len
        server.submit(request, arrived_ns, cached_len)

    def _place(self, request: Request) -> Server:
        """The server that the spec's placement chooses."""
        if self._spec.placement == "round-robin":
            return next(self._in_turn)
        if self._spec.placement == "prefix" and request.hash_ids:
            return max(
                self._servers,
                key=lambda server: (self._prefixes[server.number].num_hits(request), -server.outstanding),
            )
        return min(self._servers, key=_outstanding)

    def _cached_len(self, request: Request, prefixes: PrefixStore) -> int:
        """Tokens whose KV is there already; the last one's is computed anew in any case."""
        if request.hash_ids:
            return prefixes.cached_tokens(request)
        free = self._spec.free_hbm_prefix and self._spec.policy.home == "hbm"
        return request.prompt_len - 1 if request.cached and (self._all_prefixes_fit or free) else 0


def _outstanding(server: Server) -> int:
    return server.outstanding
