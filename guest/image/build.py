"""How a guest image is built from Debian's packages. Knows the C compiler and the image's parts, no cache.

Everything that needs the root's owners and modes runs in mmdebstrap's hook (guest/image/init/pack.sh).
"""

import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from guest.artefacts.debian import require_machine, run_mmdebstrap
from guest.errors import ImageError
from guest.image.initramfs import OVERLAY, Archive
from guest.image.recipe import Recipe

WHAT = "guest image"
PROGRAMS = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "gcc": "gcc libc6-dev"}  # program -> Debian packages


def check_machine(folder: Path, needed_bytes: int) -> None:
    """Refuse a machine that could not finish a build. folder: where the image will lie. Raises ImageError."""
    require_machine(WHAT, PROGRAMS, folder, needed_bytes)


def build(recipe: Recipe, folder: Path, progress: Callable[[str], None]) -> None:
    """Leave `vmlinux`, `initrd` and `disk.ext4` in the empty `folder`."""
    sources = dict(recipe.sources)
    progress("compiling the guest's init")
    init = _compile_init(sources["init.c"], folder)
    _install(recipe, sources["pack.sh"], folder, progress)
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


def _install(recipe: Recipe, pack: str, folder: Path, progress: Callable[[str], None]) -> None:
    """Install the packages in a root of mmdebstrap's own and have the hook's /parts handed out to `folder`."""
    options = [
        "--variant=essential",
        "--format=null",
        f"--include={','.join(recipe.packages)}",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in recipe.excluded_paths),
        '--customize-hook=sh -c "$CXLBED_PACK" pack "$1"',  # through the environment, since mmdebstrap prints its hooks
        f"--customize-hook=copy-out /parts {folder}",
    ]
    progress(f"installing Debian {recipe.suite}")
    run_mmdebstrap(WHAT, [recipe.suite], options, {"CXLBED_PACK": pack}, progress)


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
