"""Running mmdebstrap: on which mirror, through which proxy, and what it says when it fails. Knows no recipe.

Works as root and as an ordinary user: mmdebstrap chooses its own way to be root inside.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from guest.errors import ImageError

DEFAULT_MIRROR = "http://deb.debian.org/debian"
ERROR_TAIL_LINES = 15
SYSTEM_PATH = "/usr/sbin:/sbin"


def require_machine(what: str, programs: Mapping[str, str], folder: Path, needed_bytes: int) -> None:
    """Refuse a machine that could not finish a build, before anything is written. what: what is to be built; programs:
    program -> Debian packages that hold it; folder: where the artefact will lie.
    Raises ImageError naming the missing program or the full disk."""
    for program, packages in programs.items():
        if shutil.which(program, path=search_path()) is None:
            raise ImageError(f"{what}: {program} is not installed; apt install {packages}")
    for place in (folder, Path(tempfile.gettempdir())):
        free_bytes = shutil.disk_usage(place).free
        if free_bytes < needed_bytes:
            raise ImageError(
                f"{what}: {place} has {free_bytes >> 20} MiB free, a build needs {needed_bytes >> 20} MiB; "
                "make room, or set XDG_CACHE_HOME (the cache) or TMPDIR (the build) to a larger disk"
            )


def run_mmdebstrap(
    what: str,
    suites: Sequence[str],
    options: Sequence[str],
    variables: Mapping[str, str],
    progress: Callable[[str], None],
) -> str:
    """Run mmdebstrap with `options` over `suites`, the first of which names the release, and hand out nothing but what its
    hooks do. variables: added to its environment, since it prints its hooks. Returns all that it said. Raises ImageError."""
    command = [
        "mmdebstrap",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--aptopt={line}" for line in _proxy_options()),
        *options,
        suites[0],
        "-",
        *_mirror_lines(suites),
    ]
    said = []
    for line in _lines_of(what, command, variables):
        said.append(line)
        if line.startswith("I: ") and line.endswith("..."):
            progress(line.removeprefix("I: ").removesuffix("..."))
    return "\n".join(said)


def search_path() -> str:
    """PATH with the system folders, which an ordinary user's often lacks and where mkfs.ext4 lies."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"


def _lines_of(what: str, command: list[str], variables: Mapping[str, str]) -> Iterator[str]:
    """Run `command` and yield what it says. It inherits the cache's lock. Raises ImageError if it fails."""
    environment = {**os.environ, "PATH": search_path(), "LC_ALL": "C.UTF-8", **variables}
    tail: deque[str] = deque(maxlen=ERROR_TAIL_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                tail.append(line.rstrip())
                yield line.rstrip()
        except BaseException:
            child.terminate()  # mmdebstrap removes its temporary root
            raise
    if child.returncode != 0:
        raise ImageError(_failure(what, child.returncode, tail))


def _failure(what: str, status: int, tail: deque[str]) -> str:
    said = "\n  ".join(tail)
    fix = "is the Debian mirror reachable? CXLBED_DEBIAN_MIRROR names another one"
    if os.getuid() != 0 and re.search(r"subuid|newuidmap|unshare|fakechroot|chroot mode", said):
        fix = (
            "as an ordinary user mmdebstrap needs user namespaces: the package uidmap, lines for the user in /etc/subuid and"
            " /etc/subgid, and not to be inside a chroot; or build as root and copy it to this user's cache"
        )
    return f"{what}: mmdebstrap ended with status {status}; {fix}. It said last:\n  {said}"


def _mirror_lines(suites: Sequence[str]) -> list[str]:
    """Sources for mmdebstrap: CXLBED_DEBIAN_MIRROR, or the mirror of this machine's apt; an empty list leaves the choice to
    mmdebstrap where it would make the same."""
    mirror = os.environ.get("CXLBED_DEBIAN_MIRROR") or _apt_mirror()
    if mirror.rstrip("/") == DEFAULT_MIRROR and len(suites) == 1:
        return []
    return [f"deb {mirror} {suite} main" for suite in suites]


def _apt_mirror() -> str:
    targets = _output_of(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    )
    mirrors = [line.split()[-1] for line in targets.splitlines() if line.startswith("Debian Debian main ")]
    return mirrors[0] if mirrors else DEFAULT_MIRROR


def _proxy_options() -> list[str]:
    """The machine's apt settings for reaching a mirror; mmdebstrap does not read them by itself."""
    known = re.compile(r"Acquire::(https?::(Proxy|Verify-Peer|CaInfo)|Check-Valid-Until|Retries)\b.*\S")
    return [line for line in _output_of(["apt-config", "dump"]).splitlines() if known.match(line) and '""' not in line]


def _output_of(command: list[str]) -> str:
    """What `command` prints, or nothing on a machine that lacks it: apt is asked for hints only."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
