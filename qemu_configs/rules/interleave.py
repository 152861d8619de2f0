"""What CXL, QEMU and the guest's kernel ask of windows, regions and the interleaving between them.

Knows one host at a time; rules.py says whose it is. What the kernel refuses was seen refused by Linux 6.12.
"""

from collections.abc import Iterator

from qemu_configs.rules.capacity import HDM_DECODERS, share_bytes
from qemu_configs.rules.wording import CAPACITY_STEP_BYTES, capacity_problem, choices, name_problems, round_up
from qemu_configs.topology import (
    GIB,
    GRANULARITIES_BYTES,
    WAYS,
    Attachment,
    Host,
    Region,
    Topology,
    Window,
    format_size,
)

MAX_WINDOWS = 16  # QEMU's CXL_FMW array
HDM_TARGETS = 8  # a decoder's target list
ADDRESS_SPACE_BYTES = 960 * GIB  # of a guest's 1 TiB (phys-bits 40), what lies below the reserved range at its end


def window_problems(host: Host) -> Iterator[str]:
    """Breaches of a host's windows, each by itself and all together."""
    yield from name_problems("", "windows", host.windows)
    if any(True for _ in host.attachments()) and not host.windows:
        yield "windows is empty; without a window no device can be mapped (add one that targets a bridge)"
    if len(host.windows) > MAX_WINDOWS:
        yield f"windows: {len(host.windows)} are more than {MAX_WINDOWS}, QEMU's limit"
    span_bytes = host.total_memory_bytes + sum(window.size_bytes for window in host.windows)
    if span_bytes > ADDRESS_SPACE_BYTES:
        yield (
            f"windows: {span_bytes} bytes of windows and memory pass the guest's address space of "
            f"{ADDRESS_SPACE_BYTES} (make a window smaller)"
        )
    for window in host.windows:
        yield from (f"window '{window.name}': {problem}" for problem in _window(window, host))


def _window(window: Window, host: Host) -> Iterator[str]:
    bridges = [bridge.name for bridge in host.bridges]
    for target in dict.fromkeys(window.targets):
        if target not in bridges:
            yield f"targets: '{target}' does not resolve to a bridge of this host ({choices(bridges)})"
        if window.targets.count(target) > 1:
            yield f"targets: '{target}' is listed more than once (QEMU maps it, no region can use it; list it once)"
    yield from _ways(window.ways, len(window.targets), "targets")
    yield from capacity_problem("", "size_bytes", window.size_bytes)
    step_bytes = CAPACITY_STEP_BYTES * (len(window.targets) or 1)
    if window.size_bytes % CAPACITY_STEP_BYTES == 0 and window.size_bytes % step_bytes:
        fix = format_size(round_up(window.size_bytes, step_bytes))
        yield f"size_bytes={window.size_bytes} is not a multiple of 256 MiB for each of its targets (next: {fix})"
    yield from _granularity(window.granularity_bytes)


def region_problems(host: Host, topology: Topology) -> Iterator[str]:
    """Breaches of a host's regions: against their windows, devices, decoders and one another."""
    yield from name_problems("", "regions", host.regions)
    for region in host.regions:
        yield from (f"region '{region.name}': {problem}" for problem in _region(region, host, topology))
    yield from _decoders(host)
    yield from _window_room(host, topology)


def _region(region: Region, host: Host, topology: Topology) -> Iterator[str]:
    windows = [window.name for window in host.windows]
    yield from _ways(region.ways, len(region.devices), "devices")
    yield from _granularity(region.granularity_bytes)
    yield from _region_devices(region, host, topology)
    if region.window not in windows:
        yield f"window='{region.window}' does not resolve to a window of this host ({choices(windows)})"
    else:
        yield from _under_window(region, host.window(region.window), host)


def _region_devices(region: Region, host: Host, topology: Topology) -> Iterator[str]:
    held = [attachment.device for attachment in host.attachments()]
    for name in dict.fromkeys(region.devices):
        if name not in held:
            yield f"devices: '{name}' is not attached to this host ({choices(held)})"
        if region.devices.count(name) > 1:
            yield f"devices: '{name}' is listed more than once (list it once)"
    used = [device for device in topology.devices if device.name in region.devices]
    for device in used:
        if device.capacity_bytes and device.capacity_bytes == device.dc_size_bytes:
            yield (
                f"devices: '{device.name}' has dynamic capacity only, which no stock kernel brings online "
                "(leave it out of regions; drive it over QMP)"
            )
    sizes = {device.partition_bytes(region.kind) for device in used} - {0}
    if len(sizes) > 1 and region.size_bytes is None:
        yield (
            f"devices: sizes {', '.join(format_size(size) for size in sorted(sizes))} differ; "
            "interleaved devices are taken alike (make them equal, say the region's size, or use a region each)"
        )


def _under_window(region: Region, window: Window, host: Host) -> Iterator[str]:
    num_devices, num_targets = len(region.devices), len(window.targets) or 1
    if num_devices % num_targets or not _is_power_of_2(num_devices // num_targets):
        yield (
            f"devices: {num_devices} over the {num_targets} targets of window '{window.name}' are not 1, 2, 4, 8 or 16 each "
            "(change the devices, or the window's targets)"
        )
        return
    if num_targets > 1 and region.granularity_bytes != window.granularity_bytes:
        yield (
            f"granularity_bytes={region.granularity_bytes} differs from window '{window.name}''s, which the guest "
            f"refuses when a window interleaves (use {window.granularity_bytes})"
        )
    bridges = [bridge.name for bridge in host.bridges]
    place_of = {attachment.device: attachment for attachment in host.attachments()}
    for number, target in enumerate(window.targets):
        places = [place_of[device] for device in region.devices[number::num_targets] if device in place_of]
        if target in bridges:
            yield from _under_target(region, window, target, places)


def _under_target(region: Region, window: Window, target: str, places: list[Attachment]) -> Iterator[str]:
    """`places`: of the devices that the interleave sends to this target, in its order."""
    strays = [place for place in places if place.bridge.name != target]
    for stray in strays:
        yield (
            f"devices: '{stray.device}' at position {region.devices.index(stray.device)} is under bridge "
            f"'{stray.bridge.name}', where window '{window.name}' reaches '{target}' (order the devices as its targets)"
        )
    if strays:
        return
    ports = [place.switch.name if place.switch else place.device for place in places]
    num_ports = len(set(ports)) or 1
    if len(ports) % num_ports or any(port != ports[n % num_ports] for n, port in enumerate(ports)):
        yield (
            f"devices: below bridge '{target}' they do not take its {num_ports} ports in turn, the same number each "
            f"(now: {', '.join(ports)})"
        )
    # A port's decoder interleaves at the granularity above it times the ways above it; three ways take no address bit.
    widest_bytes = region.granularity_bytes * (len(window.targets) // (3 if len(window.targets) % 3 == 0 else 1))
    widest_bytes *= num_ports if any(place.switch for place in places) else 1
    if widest_bytes > GRANULARITIES_BYTES[-1]:
        yield (
            f"granularity_bytes={region.granularity_bytes} makes a decoder below bridge '{target}' interleave at "
            f"{widest_bytes}, beyond {GRANULARITIES_BYTES[-1]} (use a finer one)"
        )


def _decoders(host: Host) -> Iterator[str]:
    for bridge in host.bridges:
        ports = [{name} for name in bridge.devices] + [set(switch.devices) for switch in bridge.switches]
        yield from _decoders_of(f"bridge '{bridge.name}'", ports, host.regions)
        for switch in bridge.switches:
            yield from _decoders_of(f"switch '{switch.name}'", [{name} for name in switch.devices], host.regions)


def _decoders_of(owner: str, ports: list[set[str]], regions: tuple[Region, ...]) -> Iterator[str]:
    num_targets = [sum(not port.isdisjoint(region.devices) for port in ports) for region in regions]
    num_regions = sum(count > 0 for count in num_targets)
    if num_regions > HDM_DECODERS:
        yield (
            f"{owner}: {num_regions} regions pass through its {HDM_DECODERS} HDM decoders "
            "(use fewer, wider regions or another bridge)"
        )
    for region, count in zip(regions, num_targets, strict=True):
        if count > HDM_TARGETS:
            yield f"{owner}: region '{region.name}' interleaves {count} of its ports, a decoder takes {HDM_TARGETS}"


def _window_room(host: Host, topology: Topology) -> Iterator[str]:
    devices = {device.name: device for device in topology.devices}
    for window in host.windows:
        inside = [region for region in host.regions if region.window == window.name]
        needed = sum(
            share_bytes(region, devices[name]) for region in inside for name in region.devices if name in devices
        )
        if window.size_bytes and needed > window.size_bytes:
            yield (
                f"window '{window.name}': size_bytes={window.size_bytes} is too small for its regions, which need "
                f"{needed} (at least: {format_size(round_up(needed))})"
            )


def _ways(ways: int | None, count: int, counted: str) -> Iterator[str]:
    if ways and ways not in WAYS:
        yield f"ways={ways} is no CXL interleave (one of {', '.join(map(str, WAYS))})"
    elif ways and ways != count:
        yield f"ways={ways} disagrees with {count} {counted} (list {ways} {counted} or say ways: {count})"
    if count not in WAYS:
        yield f"{counted}: {count} are no CXL interleave (one of {', '.join(map(str, WAYS))})"


def _granularity(granularity_bytes: int) -> Iterator[str]:
    if granularity_bytes and granularity_bytes not in GRANULARITIES_BYTES:
        allowed = ", ".join(format_size(size) for size in GRANULARITIES_BYTES)
        yield f"granularity_bytes={granularity_bytes} is no CXL granularity (one of {allowed})"


def _is_power_of_2(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
