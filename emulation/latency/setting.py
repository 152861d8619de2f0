"""What times of fetching are of, and what they were fitted to. Knows profiles and ranges; times nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emulation.timing.profile import Profile

MODEL = "DeepSeek-V3.2"  # whose rows, layers and top-k are fetched unless a trace says otherwise
FITTED_GPU, FITTED_BY = "H20", "2606.19746"  # the GPU of SAC's Figures 3 and 5, and the publication
GBIT_PER_BYTE_NS = 8

Range = tuple[int, int]


@dataclass(frozen=True)
class FetchFit:
    """What the profiles of SAC's testbed are fitted to. entries: Figure 5; contexts, concurrencies: Figure 3."""

    gpu: str = FITTED_GPU
    entries: Range = (64, 2048)
    contexts: Range = (16384, 131072)
    concurrencies: Range = (1, 32)


FETCH_FIT = FetchFit()


@dataclass(frozen=True)
class FetchSetting:
    """What a document's times are of. gpu: whose figures read; None: a CPU core, or a GPU that its profile names (`readers`, by
    profile); nic_gbit: the wire by profile that crosses a network card; engine: what fetches; outside_fit: in a few words each."""

    model: str
    gpu: str | None
    readers: dict[str, str]
    nic_gbit: dict[str, float]
    engine: str
    fit_range: FetchFit
    outside_fit: tuple[str, ...]

    def words(self) -> str:
        """A line or more for under a table."""
        readers = f"read by {self.gpu} of the SAC testbed" if self.gpu else "read as each profile says"
        cards = ", ".join(f"{name} over {gbit:g} Gb/s" for name, gbit in self.nic_gbit.items())
        fit = self.fit_range
        lines = [
            f"rows of {self.model}, {readers}; {self.engine}{f'; {cards}' if cards else ''}",
            f"SAC's profiles are fitted to {_span(fit.entries)} entries; {_span(fit.contexts)} tokens of prefix, "
            f"{_span(fit.concurrencies)} at once; {fit.gpu}",
            *(f"outside the fit: {word}" for word in self.outside_fit),
        ]
        return "\n".join(lines)


def setting_of(
    profiles: Sequence[Profile],
    engine: str,
    entries: Sequence[int] = (),
    contexts: Sequence[int] = (),
    concurrencies: Sequence[int] = (),
    model: str = MODEL,
) -> FetchSetting:
    """The setting of fetches over `profiles` of these numbers."""
    asked = (("entries", entries, FETCH_FIT.entries), ("context", contexts, FETCH_FIT.contexts),
             ("concurrency", concurrencies, FETCH_FIT.concurrencies))  # fmt: skip
    return FetchSetting(
        model=model,
        gpu=FITTED_GPU if any(map(_is_fitted, profiles)) else None,
        readers={profile.name: profile.summary for profile in profiles},
        nic_gbit={
            profile.name: GBIT_PER_BYTE_NS * profile.adapter.read_bytes_per_ns
            for profile in profiles
            if profile.tier == "rdma"
        },
        engine=engine,
        fit_range=FETCH_FIT,
        outside_fit=(*_departures(asked), *_not_fitted(profiles)),
    )


def _is_fitted(profile: Profile) -> bool:
    """Whether the reader's figures are those of SAC's GPU."""
    return FITTED_BY in profile.sources["reader.read_bytes_per_ns"]


def _not_fitted(profiles: Sequence[Profile]) -> Iterator[str]:
    for profile in profiles:
        if not any("fitted" in source for source in profile.sources.values()):
            yield f"{profile.name} is not fitted, its figures are published or assumed"


def _departures(asked: Sequence[tuple[str, Sequence[int], Range]]) -> Iterator[str]:
    for name, numbers, (low, high) in asked:
        beyond = [number for number in numbers if not low <= number <= high]
        if beyond:
            yield f"{name} {', '.join(map(str, beyond))} (fitted: {low} to {high})"


def _span(span: Range) -> str:
    return f"{span[0]} to {span[1]}"
