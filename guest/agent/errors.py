"""What can go wrong in the agent: a branch of the runtime's tree, as the two travel together.

Wording: owner, field, value, rule, fix.

    SacError
      AgentError         1
        PlacementError   1  pages or threads are not where they were bound
        ContractError    1  the runtime under test breaks its contract
        RequestError     2  no such node, no such runtime, a task that cannot be
        MessageError     2  a message that is malformed, cut off or of another version
        HostError        3  this host cannot do what was asked
"""

from sac_runtime.errors import SacError


class AgentError(SacError):
    """The agent could not do its part."""


class PlacementError(AgentError):
    """Pages or threads are not where they were bound, or cannot be shown to be."""


class RequestError(AgentError):
    """What was asked cannot be: no such node, no such runtime, a field of a task outside its range."""

    exit_status = 2


class MessageError(AgentError):
    """A message that is malformed, cut off, of another version, or not the one that has to come now."""

    exit_status = 2


class HostError(AgentError):
    """This host cannot do what was asked: one NUMA node, no room on it, none of its CPUs."""

    exit_status = 3


class ContractError(AgentError):
    """The runtime under test breaks its contract: it lacks a method, or gives arrays of another shape."""
