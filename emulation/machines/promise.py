"""What the bed file promises beside what the guest shows. Knows pictures and inventories; talks to no guest."""

from collections import Counter
from collections.abc import Iterator

from emulation.errors import CxlbedError
from guest.inventory import CxlRegion, Inventory, RootDecoder, serials_in_words
from qemu_configs.picture import Picture, RegionPicture, WindowPicture

FIGURES = ("read_latency_ns", "write_latency_ns", "read_bandwidth_mib_per_s", "write_bandwidth_mib_per_s")


class PromiseError(CxlbedError):
    """The guest shows something other than what its bed file promised; both sides are in the message."""


def require_promise(picture: Picture, shown: Inventory) -> None:
    """Raise PromiseError with every difference between what was promised and what the guest shows."""
    if lines := differences(picture, shown):
        raise PromiseError("the guest shows something other than its bed file promises:\n  " + "\n  ".join(lines))


def differences(picture: Picture, shown: Inventory) -> list[str]:
    """One line for each thing that `shown` has otherwise than `picture` promises, with both sides; empty if all is as promised."""
    return [
        *_memdev_differences(picture, shown),
        *_window_differences(picture, shown),
        *_region_differences(picture, shown),
        *_numa_differences(picture, shown),
    ]


def _memdev_differences(picture: Picture, shown: Inventory) -> Iterator[str]:
    by_serial = {memdev.serial: memdev for memdev in shown.memdevs}
    ports: dict[str, str] = {}  # the bed file's name of a switch -> the kernel's, learnt from the first device below it
    for promised in picture.memdevs:
        owner = f"device '{promised.name}' (serial {promised.serial:#x})"
        memdev = by_serial.pop(promised.serial, None)
        if memdev is None:
            yield f"{owner}: promised, not shown; serials shown: {serials_in_words(m.serial for m in shown.memdevs)}"
            continue
        yield from _unequal(owner, "size_bytes", promised.size_bytes, memdev.size_bytes)
        yield from _unequal(
            owner, "persistent_size_bytes", promised.persistent_size_bytes, memdev.persistent_size_bytes
        )
        yield from _unequal(owner, "host_bridge", promised.host_bridge, memdev.host_bridge)
        expected_port = promised.switch and ports.setdefault(promised.switch, memdev.switch or "a switch")
        yield from _unequal(owner, "switch", expected_port, memdev.switch)
    for serial, memdev in by_serial.items():
        yield f"device {memdev.name} (serial {serial:#x}): shown, not promised"


def _window_differences(picture: Picture, shown: Inventory) -> Iterator[str]:
    if len(picture.windows) != len(shown.root_decoders):
        yield f"windows: promised {len(picture.windows)}, shown {len(shown.root_decoders)}"
    for promised, decoder in _windows(picture, shown):
        owner = f"window '{promised.name}' ({decoder.name})"
        yield from _unequal(owner, "size_bytes", promised.size_bytes, decoder.size_bytes)
        yield from _unequal(owner, "ways", promised.ways, decoder.ways)
        if promised.ways > 1:  # the kernel names no granularity where nothing is interleaved
            yield from _unequal(owner, "granularity_bytes", promised.granularity_bytes, decoder.granularity_bytes)
        yield from _unequal(owner, "host_bridges", list(promised.host_bridges), list(decoder.host_bridges))


def _windows(picture: Picture, shown: Inventory) -> Iterator[tuple[WindowPicture, RootDecoder]]:
    """Windows and root decoders in pairs: QEMU hands the windows to the kernel in the order of the bed file."""
    yield from zip(picture.windows, shown.root_decoders, strict=False)


def _region_differences(picture: Picture, shown: Inventory) -> Iterator[str]:
    decoders = {promised.name: decoder.name for promised, decoder in _windows(picture, shown)}
    kept: set[str] = set()
    alike: Counter[tuple[int, ...]] = Counter()
    for promised in picture.regions:
        region = shown.region_of(promised.serials, alike[promised.serials])
        alike[promised.serials] += 1
        if region is None:
            shapes = "; ".join(f"{r.name} over {serials_in_words(r.serials)}" for r in shown.regions) or "none"
            serials = serials_in_words(promised.serials)
            yield f"region '{promised.name}': promised over serials {serials}, not shown; regions shown: {shapes}"
            continue
        kept.add(region.name)
        yield from _differences_of_region(promised, region, decoders.get(promised.window))
    yield from (f"{region.name}: shown, not promised" for region in shown.regions if region.name not in kept)


def _differences_of_region(promised: RegionPicture, region: CxlRegion, decoder: str | None) -> Iterator[str]:
    owner = f"region '{promised.name}'"
    yield from _unequal(owner, "window", decoder, region.decoder)
    yield from _unequal(owner, "size_bytes", promised.size_bytes, region.size_bytes)
    yield from _unequal(owner, "ways", promised.ways, region.ways)
    if promised.ways > 1:
        yield from _unequal(owner, "granularity_bytes", promised.granularity_bytes, region.granularity_bytes)
    yield from _unequal(owner, "committed", True, region.committed)
    yield from _unequal(owner, "mode", promised.mode, region.mode)
    yield from _unequal(owner, "num_offline_blocks", 0, region.num_offline_blocks)


def _numa_differences(picture: Picture, shown: Inventory) -> Iterator[str]:
    """Nodes beyond the promised ones are CXL memory's own and are judged as regions."""
    by_number = {node.node: node for node in shown.numa_nodes}
    for promised in picture.numa_nodes:
        owner = f"NUMA node {promised.node}"
        node = by_number.get(promised.node)
        if node is None:
            yield f"{owner}: promised, not shown; nodes shown: {', '.join(map(str, by_number))}"
            continue
        yield from _unequal(owner, "CPUs", promised.num_cpus, len(node.cpus))
        yield from _unequal(owner, "memory_bytes", promised.memory_bytes, node.memory_bytes)
        yield from _unequal(owner, "distance", promised.distance, node.distance)
        for figure in FIGURES if promised.access else ():
            yield from _unequal(owner, figure, getattr(promised.access, figure), getattr(node, figure))


def _unequal(owner: str, field: str, promised: object, shown: object) -> Iterator[str]:
    if promised != shown:
        yield f"{owner}: {field}: promised {promised}, shown {shown}"
