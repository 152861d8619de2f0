"""What `cxlbed numa --json` writes, as dataclasses. Knows names and their order; measures nothing."""

from dataclasses import dataclass
from typing import Self

from emulation.numa.compare import Beside, Record, TopUp
from emulation.numa.survey import Survey
from guest.agent.numa_nodes import Node
from guest.agent.numa_placement import Proof
from sac_runtime.label import Label


@dataclass(frozen=True)
class HugePageShare:
    """Part of each node's memory that lay on huge pages."""

    local: float
    remote: float


@dataclass(frozen=True)
class SurveyDocument:
    """A survey of this machine's nodes. busy: a warning, or "" on an idle machine."""

    nodes: list[Node]
    profile: str
    busy: str
    local: int
    remote: int
    distance: int
    placement: Proof
    huge_page_share: HugePageShare
    records: list[Record]
    beside_profile: list[Beside]
    top_up: TopUp

    @classmethod
    def of(cls, survey: Survey, nodes: list[Node], profile: str, busy: str) -> Self:
        """The document of a survey that chose among `nodes`."""
        return cls(
            nodes=nodes,
            profile=profile,
            busy=busy,
            local=survey.pair.local.number,
            remote=survey.pair.remote.number,
            distance=survey.pair.distance,
            placement=survey.proof,
            huge_page_share=HugePageShare(survey.local.huge_page_share, survey.remote.huge_page_share),
            records=survey.records,
            beside_profile=survey.beside,
            top_up=survey.top_up,
        )


@dataclass(frozen=True)
class PlacementDocument:
    """The placement that a guest's agent reports (`--bed`): no time is claimed. problems: [] where all is in its place."""

    nodes: list[Node]
    local: int
    remote: int
    distance: int
    placement: Proof
    problems: list[str]
    label: Label
