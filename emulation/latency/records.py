"""What `cxlbed latency --json` writes, as dataclasses. Knows names and their order; times nothing."""

from dataclasses import dataclass

from emulation.latency.injected import BareTime, StoreTime
from emulation.latency.modelled import EntryTime, PrefixTime
from emulation.latency.replayed import TierReplay
from emulation.latency.setting import FetchSetting
from emulation.timing.clock import InjectorSummary
from emulation.timing.profile import Profile


@dataclass(frozen=True)
class EntryDocument:
    """Fetches of random entries, modelled (figure 5). rows: the row format, bf16 or fp8."""

    figure: int
    rows: str
    setting: FetchSetting
    records: list[EntryTime]


@dataclass(frozen=True)
class PrefixDocument:
    """Fetches of whole prefixes, modelled (figure 3)."""

    figure: int
    setting: FetchSetting
    records: list[PrefixTime]


@dataclass(frozen=True)
class TraceDocument:
    """Fetches of what hot buffers of `hot_buffer` slots miss of a recorded top-k trace, modelled.

    trace: its file; source: as its header says; requests, layers, steps, top_k, context_tokens (by request): its sizes;
    miss_rate: share of the top-k that later steps fetch."""

    trace: str
    source: str
    requests: int
    layers: int
    steps: int
    top_k: int
    context_tokens: tuple[int, ...]
    hot_buffer: int
    rows: str
    miss_rate: float
    setting: FetchSetting
    records: list[TierReplay]


@dataclass(frozen=True)
class InjectedDocument:
    """Fetches of random entries from a store that is stalled to profiles (figure 5), and how well the stalls were met."""

    figure: int
    store: str
    setting: FetchSetting
    records: list[StoreTime]
    injector: InjectorSummary


@dataclass(frozen=True)
class BareDocument:
    """Fetches of random entries from a store as it is (figure 5)."""

    figure: int
    store: str
    records: list[BareTime]


@dataclass(frozen=True)
class ProfilesDocument:
    """The profiles that are known (`--list`), each figure beside its source."""

    profiles: list[Profile]
