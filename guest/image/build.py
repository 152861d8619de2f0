"""How a guest image is built from Debian's packages. Knows mmdebstrap, the C compiler and the image's parts, no cache.

Works as root and as an ordinary user: mmdebstrap chooses its own way to be root inside, and everything that needs the
root's owners and modes runs in its hook (guest/image/init/pack.sh).
"""

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from guest.errors import ImageError
from guest.image.initramfs import OVERLAY, Archive
from guest.image.recipe import Recipe

DEFAULT_MIRROR = "http://deb.debian.org/debian"
PROGRAMS = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "gcc": "gcc libc6-dev"}  # program -> Debian packages
ERROR_TAIL_LINES = 15
SYSTEM_PATH = "/usr/sbin:/sbin"


def check_machine(folder: Path, needed_bytes: int) -> None:
    """Refuse a machine that could not finish a build, before anything is written. folder: where the image will lie.
    Raises ImageError naming the missing program or the full disk."""
    for program, packages in PROGRAMS.items():
        if shutil.which(program, path=_search_path()) is None:
            raise ImageError(f"guest image: {program} is not installed; apt install {packages}")
    for place in (folder, Path(tempfile.gettempdir())):
        free_bytes = shutil.disk_usage(place).free
        if free_bytes < needed_bytes:
            raise ImageError(
                f"guest image: {place} has {free_bytes >> 20} MiB free, a build needs {needed_bytes >> 20} MiB; "
                "make room, or set XDG_CACHE_HOME (the image) or TMPDIR (the build) to a larger disk"
            )


def build(recipe: Recipe, folder: Path, progress: Callable[[str], None]) -> None:
    """Leave `vmlinux`, `initrd` and `disk.ext4` in the empty `folder`."""
    sources = dict(recipe.sources)
    progress("compiling the guest's init")
    init = _compile_init(sources["init.c"], folder)
    _run_mmdebstrap(recipe, sources["pack.sh"], folder, progress)
    progress("making the initramfs")
    parts = folder / "parts"
    (folder / "initrd").write_bytes(_initrd(recipe, init.read_bytes(), parts / "modules", sources["sshd_config"]))
    for part in ("vmlinux", "disk.ext4"):
        (parts / part).rename(folder / part)
    init.unlink()
    shutil.rmtree(parts)


def _compile_init(source: str, folder: Path) -> Path:
    init = folder / "init"
    command = ["gcc", "-x", "c", "-", "-o", str(init), "-static", "-s", "-Os", "-Wall", "-Wextra", "-Werror"]
    completed = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    if completed.returncode != 0:
        raise ImageError(
            f"guest image: {' '.join(command)} ended with status {completed.returncode}:\n{completed.stderr}"
        )
    return init


def _run_mmdebstrap(recipe: Recipe, pack: str, folder: Path, progress: Callable[[str], None]) -> None:
    """Install the packages in a root of mmdebstrap's own and have the hook's /parts handed out to `folder`."""
    command = [
        "mmdebstrap",
        "--variant=essential",
        "--format=null",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--aptopt={line}" for line in _proxy_options()),
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in recipe.excluded_paths),
        '--customize-hook=sh -c "$CXLBED_PACK" pack "$1"',  # through the environment, since mmdebstrap prints its hooks
        f"--customize-hook=copy-out /parts {folder}",
        recipe.suite,
        "-",
        *_mirror_lines(recipe.suite),
    ]
    progress(f"installing Debian {recipe.suite}")
    tail: deque[str] = deque(maxlen=ERROR_TAIL_LINES)
    for line in _lines_of(command, {"CXLBED_PACK": pack}, tail):
        if line.startswith("I: ") and line.endswith("..."):
            progress(line.removeprefix("I: ").removesuffix("..."))


def _lines_of(command: list[str], variables: dict[str, str], tail: deque[str]) -> Iterator[str]:
    """Run `command` and yield what it says, keeping the last lines in `tail`. It inherits the cache's lock.
    Raises ImageError if it fails."""
    environment = {**os.environ, "PATH": _search_path(), "LC_ALL": "C.UTF-8", **variables}
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
        raise ImageError(_mmdebstrap_failure(child.returncode, tail))


def _mmdebstrap_failure(status: int, tail: deque[str]) -> str:
    said = "\n  ".join(tail)
    fix = "is the Debian mirror reachable? CXLBED_DEBIAN_MIRROR names another one"
    if os.getuid() != 0 and re.search(r"subuid|newuidmap|unshare|fakechroot|chroot mode", said):
        fix = (
            "as an ordinary user mmdebstrap needs user namespaces: the package uidmap, lines for the user in /etc/subuid and"
            " /etc/subgid, and not to be inside a chroot; or build the image as root and copy it to this user's cache"
        )
    return f"guest image: mmdebstrap ended with status {status}; {fix}. It said last:\n  {said}"


def _mirror_lines(suite: str) -> list[str]:
    """Sources for mmdebstrap: CXLBED_DEBIAN_MIRROR, or the mirror of this machine's apt if that is not Debian's own;
    an empty list leaves the choice to mmdebstrap."""
    mirror = os.environ.get("CXLBED_DEBIAN_MIRROR") or _apt_mirror()
    return [] if mirror.rstrip("/") == DEFAULT_MIRROR else [f"deb {mirror} {suite} main"]


def _apt_mirror() -> str:
    targets = _output_of(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    )
    mirrors = [line.split()[-1] for line in targets.splitlines() if line.startswith("Debian Debian main ")]
    return mirrors[0] if mirrors else DEFAULT_MIRROR


def _proxy_options() -> list[str]:
    """The machine's apt settings for reaching a mirror; mmdebstrap does not read them by itself."""
    wanted = re.compile(r"Acquire::(https?::(Proxy|Verify-Peer|CaInfo)|Check-Valid-Until|Retries)\b.*\S")
    return [line for line in _output_of(["apt-config", "dump"]).splitlines() if wanted.match(line) and '""' not in line]


def _output_of(command: list[str]) -> str:
    """What `command` prints, or nothing on a machine that lacks it: apt is asked for hints only."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _search_path() -> str:
    """PATH with the system folders, which an ordinary user's often lacks and where mkfs.ext4 lies."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"


def _initrd(recipe: Recipe, init: bytes, modules: Path, sshd_config: str) -> bytes:
    archive = Archive()
    archive.add("init", init, 0o755)
    for step, names in recipe.modules:
        for position, path in enumerate(modules_in_order(names, (modules / "modules.dep").read_text())):
            # Unpacked here, once, and not in the guest at every boot.
            archive.add(
                f"modules/{step}/{position:02}-{Path(path).stem}", lzma.decompress((modules / path).read_bytes())
            )
    archive.add(f"{OVERLAY}/etc/ssh/sshd_config", sshd_config.encode())
    return archive.finished()


def modules_in_order(names: tuple[str, ...], modules_dep: str) -> list[str]:
    """The paths of modules `names` and of all that they need, each after what it needs. modules_dep: depmod's file.
    Raises ImageError for a module that the kernel does not have as a file."""
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in modules_dep.splitlines())}
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    ordered: list[str] = []
    for name in names:
        if name not in by_name:
            raise ImageError(
                f"guest image: module {name}: the kernel has no such file; built in, or not in this kernel"
            )
        ordered += reversed(needs[by_name[name]])  # depmod lists what is needed last first
        ordered.append(by_name[name])
    return list(dict.fromkeys(ordered))
