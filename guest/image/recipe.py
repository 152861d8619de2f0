"""What goes into the guest image, and its hash. Knows packages and modules; builds nothing."""

from dataclasses import dataclass
from pathlib import Path

from guest.artefacts.cache import recipe_hash

SOURCES = Path(__file__).parent / "init"
SOURCE_NAMES = ("init.c", "pack.sh", "sshd_config")
PACKAGES = (
    "linux-image-cloud-amd64",
    "cxl",
    "daxctl",
    "kmod",
    "ndctl",  # namespaces of persistent memory
    "numactl",
    "openssh-server",
    "procps",
    "python3-numpy",
    "zstd",
)
EXCLUDED_PATHS = (
    "/etc/kernel/postinst.d/initramfs-tools",  # makes Debian's own initramfs, which is never used
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
)
# Each step of guest/image/init/init.c and the modules that it loads, in this order, each after what it needs (modules.dep).
MODULES = (
    ("disk", ("virtio_blk", "overlay")),
    ("net", ("virtio_net",)),
    ("cxl", ("cxl_acpi", "cxl_pci", "device_dax", "dax_cxl", "cxl_mem")),
)
CMDLINE = (
    "console=ttyS0 quiet memhp_default_state=offline "  # onlined memory could not be given back to device DAX
    # For a shorter boot under TCG; none of it changes what CXL or memory look like.
    "mitigations=off noreplace-smp init_on_alloc=0 initcall_blacklist=jent_mod_init ipv6.disable=1 cryptomgr.notests "
    "rcupdate.rcu_expedited=1 tsc=reliable no_timer_check nokaslr audit=0 random.trust_cpu=on 8250.nr_uarts=1"
)


@dataclass(frozen=True)
class Recipe:
    """All that decides what is in an image; two equal recipes are one image.
    modules: (step, names) pairs; sources: (file name, text) of what is built in from guest/image/init."""

    suite: str = "trixie"
    packages: tuple[str, ...] = PACKAGES
    excluded_paths: tuple[str, ...] = EXCLUDED_PATHS
    modules: tuple[tuple[str, tuple[str, ...]], ...] = MODULES
    cmdline: str = CMDLINE
    sources: tuple[tuple[str, str], ...] = tuple((name, (SOURCES / name).read_text()) for name in SOURCE_NAMES)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the image."""
        return recipe_hash(self)


STOCK = Recipe()
