"""Sweeps: every combination of the asked settings, run one by one, each a record. Knows settings and records, no engine."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from math import inf
from typing import Any

from emulation.errors import InputError
from emulation.serving.cluster import Outcome, simulate, why_not
from emulation.serving.metrics import Recorder
from emulation.serving.spec import ClusterSpec, ServerSpec
from emulation.serving.workload import PAPER_PREFIXES, ClosedLoop, OpenLoop, TraceReplay, Workload
from emulation.timing.profile import Profile
from sac_runtime.label import Label

NS_PER_S = 1e9
_SERVED_BY = {"dram": ("dram", "numa"), "cxl": ("cxl",), "rdma": ("rdma",), "hbm": ()}


@dataclass(frozen=True)
class SweepAxes:
    """The lists whose product is swept."""

    tiers: tuple[str, ...] = ("dram", "cxl", "rdma")
    contexts: tuple[int, ...] = (16384, 32768, 65536, 131072)
    concurrencies: tuple[int, ...] = (64,)
    outputs: tuple[int, ...] = (1024,)
    devices: tuple[int, ...] = (2,)
    servers: tuple[int, ...] = (1,)
    gpus: tuple[int, ...] = (8,)
    hot_buffers: tuple[int, ...] = (6144,)
    profiles: tuple[Profile, ...] = ()
    rounds: tuple[int, ...] = (2,)
    measured_misses: Mapping[int, float] = field(default_factory=dict)  # by slots of the hot buffer


@dataclass(frozen=True)
class Arrivals:
    """How requests come. Without a rate and a trace: a closed loop."""

    num_prompts: int = 512
    num_prefixes: int = PAPER_PREFIXES
    request_rate: float | None = None
    burstiness: float = 1.0
    trace: TraceReplay | None = None
    seed: int = 0


@dataclass(frozen=True)
class Scenario:
    """One combination: a cluster and its workload."""

    spec: ClusterSpec
    workload: Workload
    context_tokens: int | None  # None: as the trace has it
    output_tokens: int | None
    round_number: int
    seed: int

    def settings(self) -> dict[str, Any]:
        """The fields of a record that say what was run."""
        spec = self.spec
        return {
            "tier": spec.tier,
            "context_tokens": self.context_tokens,
            "concurrency": self.workload.max_concurrency,
            "output_tokens": self.output_tokens,
            "requests": self.workload.num_prompts,
            "devices": spec.num_devices if spec.policy.home == "pool" else None,
            "servers": spec.num_servers,
            "gpus": spec.server.num_gpus,
            "hot_buffer": spec.hot_buffer if spec.fetch_profile else None,
            "profile": _profile_name(spec),
            "striped": spec.striped,
            "round": self.round_number,
            "seed": self.seed,
            "label": str(Label.MODELLED),
        }


def scenarios(axes: SweepAxes, traffic: Arrivals, base: ClusterSpec) -> Iterator[Scenario]:
    """All combinations; a setting that means nothing to a tier (devices without a pool) is not varied for it.
    Raises InputError for a profile that none of the tiers can use."""
    _refuse_unused_profiles(axes)
    for tier in axes.tiers:
        has_pool = tier == "cxl"
        profiles = tuple(profile for profile in axes.profiles if profile.tier in _SERVED_BY.get(tier, ())) or (None,)
        for devices, servers, gpus, hot_buffer, profile in product(
            axes.devices if has_pool else axes.devices[:1],
            axes.servers,
            axes.gpus,
            axes.hot_buffers if tier != "hbm" else axes.hot_buffers[:1],
            profiles,
        ):
            spec = replace(
                base,
                tier=tier,
                num_devices=devices,
                num_servers=servers,
                server=replace(base.server, num_gpus=gpus),
                hot_buffer=hot_buffer,
                measured_misses=axes.measured_misses.get(hot_buffer),
                profile=profile,
            )
            yield from _with_workloads(spec, axes, traffic)


def run_scenario(
    scenario: Scenario, on_progress: Callable[[int], None] | None = None
) -> tuple[dict[str, Any], Outcome | None]:
    """The record of a scenario, and its outcome; None where a request does not fit the tier, which the record says."""
    spec, workload = scenario.spec, scenario.workload
    limit = spec.running_limit(workload.longest_len)
    record = scenario.settings() | {"fits": limit > 0, "running_limit": limit, "note": ""}
    if not limit:
        return record | _no_figures() | {"note": why_not(spec, workload.longest_len)}, None
    if workload.max_concurrency and limit < workload.max_concurrency:
        record["note"] = f"only {limit} of {workload.max_concurrency} fit at once; the others wait"
    outcome = simulate(spec, workload, on_progress)
    if scenario.round_number == 2 and not outcome.num_cached_tokens:
        record["note"] = "; ".join(
            filter(None, [record["note"], "the prefixes do not fit the tier: all computed anew"])
        )
    return record | outcome_figures(outcome), outcome


def outcome_figures(outcome: Outcome) -> dict[str, Any]:
    """The fields of a record that say what came of it."""
    recorder = outcome.recorder
    figures = recorder.summary()
    figures["mean_concurrency"] = figures.pop("concurrency")  # the record's `concurrency` is what was asked for
    return figures | {
        "prefix_hit_rate": outcome.num_cached_tokens / max(1, recorder.num_input_tokens),
        "bytes_by_link": outcome.bytes_by_link(),
        "utilisation_by_link": outcome.utilisation_by_link(),
        "seconds_a_request": {
            state: spent / NS_PER_S / recorder.completed for state, spent in asdict(recorder.spent).items()
        },
    }


def _no_figures() -> dict[str, Any]:
    """The same fields for a scenario that was not run: no figure, no bytes."""
    names = [
        *(name for name in Recorder(top_k=1).summary() if name != "concurrency"),
        "mean_concurrency",
        "prefix_hit_rate",
    ]
    return {**dict.fromkeys(names), "bytes_by_link": {}, "utilisation_by_link": {}, "seconds_a_request": {}}


def _with_workloads(spec: ClusterSpec, axes: SweepAxes, traffic: Arrivals) -> Iterator[Scenario]:
    if traffic.trace is not None:
        yield Scenario(spec, traffic.trace, None, None, axes.rounds[0], traffic.seed)
        return
    concurrencies = axes.concurrencies if traffic.request_rate is None else (0,)
    for context, output, concurrency, number in product(axes.contexts, axes.outputs, concurrencies, axes.rounds):
        workload = _workload(traffic, context, output, concurrency, number)
        yield Scenario(spec, workload, context, output, number, traffic.seed)


def _workload(traffic: Arrivals, context: int, output: int, concurrency: int, round_number: int) -> Workload:
    num_prompts, num_prefixes = traffic.num_prompts, traffic.num_prefixes
    if traffic.request_rate is None:
        return ClosedLoop(num_prompts, concurrency, context, output, round_number, num_prefixes)
    return OpenLoop(
        num_prompts,
        traffic.request_rate,
        context,
        output,
        traffic.burstiness,
        round_number,
        traffic.seed,
        num_prefixes,
    )


def _refuse_unused_profiles(axes: SweepAxes) -> None:
    usable = {tier for name in axes.tiers for tier in _SERVED_BY.get(name, ())}
    for profile in axes.profiles:
        if profile.tier not in usable:
            raise InputError(
                f"profile {profile.name!r}: tier={profile.tier!r} is none of those served here "
                f"({', '.join(axes.tiers)}); add the tier or leave the profile out"
            )


def _profile_name(spec: ClusterSpec) -> str | None:
    profile = spec.prefetch_profile or spec.fetch_profile
    return profile.name if profile else None


def default_server(hbm_kv_gb: float | None = None) -> ServerSpec:
    """The server of the paper's testbed, with another HBM capacity for KV if given (GB a GPU). Raises InputError."""
    if hbm_kv_gb is not None and not 0 < hbm_kv_gb < inf:
        raise InputError(f"serve: hbm-kv={hbm_kv_gb} must be a number of GB above 0")
    return ServerSpec() if hbm_kv_gb is None else ServerSpec(hbm_kv_bytes=round(hbm_kv_gb * 1e9))
