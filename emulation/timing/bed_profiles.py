"""Which timing profile each device of a bed has, and what is wrong with that. Knows bed files and profiles, no links."""

from collections.abc import Iterator, Sequence

from emulation.errors import InputError
from emulation.timing.profile import load_profile
from qemu_configs.topology import Attachment, Host, Region, Topology

# Of devices that the bed file gives no profile, by where they sit.
DIRECT_PROFILE = "cxl-direct-asic"
SWITCHED_PROFILE = "cxl-switched-220"
TIER = "cxl"


def profile_of(topology: Topology, attachment: Attachment) -> str:
    """The profile of a device where a host has it: its own, or the default for a root port or for a switch."""
    default = SWITCHED_PROFILE if attachment.switch else DIRECT_PROFILE
    return topology.device(attachment.device).profile or default


def profiles_of(topology: Topology, host: Host, devices: Sequence[str]) -> tuple[str, ...]:
    """The profiles that the path from a host to `devices` has, each once: more than one cannot time it. Where none of them
    says one and they sit in different places, the slower default stands for all."""
    places = [place for place in host.attachments() if place.device in devices]
    if not any(topology.device(place.device).profile for place in places):
        return (SWITCHED_PROFILE if any(place.switch for place in places) else DIRECT_PROFILE,)
    return tuple(dict.fromkeys(profile_of(topology, place) for place in places))


def profile_problems(topology: Topology) -> Iterator[str]:
    """Devices whose profile cannot be read or is of another tier, regions whose devices have several. A rule of bed files
    (`Machine.more_rules`), which take no part in timing themselves; raises nothing."""
    broken = False
    for device in topology.devices:
        for problem in _unusable(device.profile) if device.profile else ():
            broken = True
            yield f"device '{device.name}': profile={device.profile!r}: {problem}"
    if not broken:
        for host in topology.hosts:
            for region in host.regions:
                yield from _unlike(topology, host, region)


def _unusable(name: str) -> Iterator[str]:
    try:
        profile = load_profile(name)
    except InputError as error:
        yield from str(error).splitlines()
        return
    if profile.tier != TIER:
        yield f"is of tier {profile.tier}, a CXL device's is {TIER} (`cxlbed latency --list` tells each profile's tier)"


def _unlike(topology: Topology, host: Host, region: Region) -> Iterator[str]:
    known = {device.name for device in topology.devices}
    places = {place.device: place for place in host.attachments() if place.device in known}
    profiles = {name: profile_of(topology, places[name]) for name in region.devices if name in places}
    if len(profiles_of(topology, host, tuple(profiles))) > 1:
        listed = ", ".join(
            f"{name} {profile}{'' if topology.device(name).profile else ' (by default)'}"
            for name, profile in profiles.items()
        )
        yield (
            f"host '{host.name}': region '{region.name}': profiles of its devices differ: {listed}; the path to a region is "
            "timed by one (give its devices the same profile, or a region each)"
        )
