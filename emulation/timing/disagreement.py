"""Profiles that are readings of one thing and disagree. Knows profiles and their names, no paths and no times."""

from collections.abc import Iterator

from emulation.timing.profile import GPU_SUFFIX, Profile, load_profile
from emulation.timing.profile_folders import find_profile, profile_names


def other_readings(profile: Profile) -> list[Profile]:
    """The other known profiles of `profile`'s subject, tier and reader; for a GPU also a CPU's, read by a GPU. Empty where it
    names no subject."""
    if profile.subject is None:
        return []
    return [one for one in _known(profile.subject, profile.read_by) if _is_another(one, profile)]


def _known(subject: str, read_by: str) -> Iterator[Profile]:
    """Profiles whose files name the subject; the others are not parsed, which takes most of a short command's time."""
    for name in profile_names():
        if subject not in find_profile(name).read_text(encoding="utf-8", errors="replace"):
            continue
        profile = load_profile(name)
        if profile.read_by == read_by:
            yield profile
        elif read_by == "gpu":
            yield load_profile(name + GPU_SUFFIX)


def _is_another(one: Profile, profile: Profile) -> bool:
    return (one.subject, one.tier) == (profile.subject, profile.tier) and one.name != profile.name
