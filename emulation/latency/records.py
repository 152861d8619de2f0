"""What `cxlbed latency --json` writes, as dataclasses. Knows names and their order; times nothing."""

from dataclasses import dataclass

from emulation.latency.injected import BareTime, StoreTime
from emulation.latency.modelled import EntryTime, PrefixTime
from emulation.timing.clock import InjectorSummary
from emulation.timing.profile import Profile


@dataclass(frozen=True)
class EntryDocument:
    """Fetches of random entries, modelled (figure 5). rows: the row format, bf16 or fp8."""

    figure: int
    rows: str
    records: list[EntryTime]


@dataclass(frozen=True)
class PrefixDocument:
    """Fetches of whole prefixes, modelled (figure 3)."""

    figure: int
    records: list[PrefixTime]


@dataclass(frozen=True)
class InjectedDocument:
    """Fetches of random entries from a store that is stalled to profiles (figure 5), and how well the stalls were met."""

    figure: int
    store: str
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
