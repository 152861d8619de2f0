"""Where profiles lie: the package's folder, then the user's own. Knows file names, not what is in a file."""

import os
from pathlib import Path

from emulation.errors import InputError

PROFILE_FOLDER = Path(__file__).parent / "profiles"
USER_FOLDER_VARIABLE = "CXLBED_PROFILES"


def profile_names() -> list[str]:
    """Names of all profiles that can be had by name: the package's, then those in $CXLBED_PROFILES."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def find_profile(name: str) -> Path:
    """The file of the profile of that name; the user's go before the package's. Raises InputError where there is none."""
    for folder in reversed(_folders()):
        path = folder / f"{name}.yaml"
        if os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name too long for a file)
            return path
    known = ", ".join(profile_names())
    raise InputError(f"profile: name={name!r} is unknown; take one of {known}, or the path of a .yaml file")


def _folders() -> list[Path]:
    user = os.environ.get(USER_FOLDER_VARIABLE, "")
    return [PROFILE_FOLDER, *(Path(folder) for folder in user.split(os.pathsep) if folder)]
