"""Devices that come to a bed and go while it is up. Knows the bed's record, QMP's words for a device and what a guest must do
before one goes; a bed's start and end are bed.py's.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emulation.errors import InputError, MachineError
from emulation.machines.backend import QEMU, Backend
from emulation.machines.bed import LOCK_DEADLINE_S, Bed, find
from emulation.machines.launch import region_orders, stores_of
from emulation.machines.promise import require_promise
from emulation.machines.record import bed_folder
from emulation.say import Say
from guest.deadline import Deadline
from guest.inventory import Inventory
from guest.provision import inspect, provision, remove
from qemu_configs.picture import picture_of
from qemu_configs.rules.bed import find_problems
from qemu_configs.topology import Attachment, Host, Topology
from qemu_configs.type3 import backends, port_of, type3

GONE_DEADLINE_S = 60.0  # Linux waits 5 s after the attention button before it lets a slot go


def plug(name: str, device: str, progress: Say, backend: Backend = QEMU) -> Bed:
    """Put a device of the bed file that is not plugged into its port, on every host that has one for it, and make the regions
    that waited for it. Raises InputError, HypervisorError, GuestError, PromiseError."""
    with bed_folder(name).lock(LOCK_DEADLINE_S):
        bed = find(name, backend=backend)
        _require_pluggable(bed.topology, device)
        bed = _with_state(bed, device, plugged=True)
        for host in _holders(bed.topology, device):
            progress(f"{host.name}: plugging '{device}'")
            _add(bed, host, device)
        _note(bed)
        for host in _holders(bed.topology, device):
            bed = _provision(bed, host, device)
            progress(f"{host.name}: shows what the bed file promises")
    return bed


def unplug(name: str, device: str, progress: Say, backend: Backend = QEMU) -> Bed:
    """Take a device out of its port on every host that holds it: the guest ends the regions over it first; what was in its
    volatile memory is lost. Raises InputError, MachineError, HypervisorError, GuestError, PromiseError."""
    with bed_folder(name).lock(LOCK_DEADLINE_S):
        bed = find(name, backend=backend)
        _require_removable(bed.topology, device)
        for host in _holders(bed.topology, device):
            progress(f"{host.name}: the guest lets go of '{device}'")
            _let_go(bed, host, device)
            _delete(bed, host, device)
        bed = _with_state(bed, device, plugged=False)
        for host in _holders(bed.topology, device):
            bed = _look(bed, host)
            progress(f"{host.name}: shows what the bed file promises")
    return bed


def _require_pluggable(topology: Topology, device: str) -> None:
    waiting = [known.name for known in topology.devices if not known.plugged]
    if device not in waiting:
        fate = (
            "is plugged already" if device in {known.name for known in topology.devices} else "is no device of this bed"
        )
        raise InputError(
            f"bed '{topology.name}': device '{device}' {fate} (not plugged: {', '.join(waiting) or 'none'})"
        )
    if problems := find_problems(topology):
        raise InputError("\n".join(f"bed '{topology.name}': {problem}" for problem in problems))


def _require_removable(topology: Topology, device: str) -> None:
    present = [known.name for known in topology.devices if known.plugged]
    if device not in present:
        raise InputError(
            f"bed '{topology.name}': device '{device}' is not plugged (plugged: {', '.join(present) or 'none'})"
        )
    for pool in topology.pools:
        if device in pool.devices:
            raise InputError(
                f"bed '{topology.name}': device '{device}' is of pool '{pool.name}', which needs all of its devices"
            )
    for host in _holders(topology, device):
        if (switch := _place(host, device).switch) is not None:
            raise InputError(
                f"bed '{topology.name}': device '{device}' sits behind switch '{switch.name}' of host '{host.name}': QEMU's "
                "downstream ports have no power control, so the guest would let go of it and QEMU never (put it on a root port)"
            )


def _add(bed: Bed, host: Host, device: str) -> None:
    """Memory first, under names of their own: QEMU keeps the backends of a device that went."""
    known = _children(bed, host, "/objects")
    ready = type3(bed.topology.device(device), port_of(_place(host, device)))
    for wanted in backends(bed.topology.device(device), Path(bed.record.memory_folder)):
        turn = sum(name == wanted["id"] or name.startswith(f"{wanted['id']}.") for name in known)
        named = {**wanted, "id": f"{wanted['id']}.{turn}" if turn else wanted["id"]}
        ready = {key: named["id"] if value == wanted["id"] else value for key, value in ready.items()}
        bed.monitor(host.name, {"execute": "object-add", "arguments": named})
    bed.monitor(host.name, {"execute": "device_add", "arguments": ready})


def _provision(bed: Bed, host: Host, device: str) -> Bed:
    """Make the regions that waited for the device."""
    picture = picture_of(bed.topology, host)
    awaited = replace(picture, regions=tuple(region for region in picture.regions if device in region.devices))
    with bed.session(host.name) as session:
        shown = provision(session, [bed.topology.device(device).serial], region_orders(awaited))
    return _kept(bed, host, shown)


def _look(bed: Bed, host: Host) -> Bed:
    with bed.session(host.name) as session:
        return _kept(bed, host, inspect(session))


def _kept(bed: Bed, host: Host, shown: Inventory) -> Bed:
    """The bed, with the host's stores as they are now in its record. Raises PromiseError."""
    require_promise(picture_of(bed.topology, host), shown)
    stores = stores_of(bed.topology, host, shown)
    hosts = tuple(replace(known, stores=stores) if known.name == host.name else known for known in bed.record.hosts)
    bed = replace(bed, hosts=replace(bed.hosts, record=replace(bed.record, hosts=hosts)))
    _note(bed)
    return bed


def _let_go(bed: Bed, host: Host, device: str) -> None:
    with bed.session(host.name) as session:
        shown = inspect(session)
        remove(session, bed.topology.device(device).serial, list(_regions_over(bed, host, device, shown)))


def _regions_over(bed: Bed, host: Host, device: str, shown: Inventory) -> Iterator[str]:
    """The kernel's names of the regions over a device, the last made first."""
    alike: Counter[tuple[int, ...]] = Counter()
    found = []
    for region in picture_of(bed.topology, host).regions:
        kernels = shown.region_of(region.serials, alike[region.serials])
        alike[region.serials] += 1
        if device in region.devices and kernels is not None:
            found.append(kernels.name)
    yield from reversed(found)


def _delete(bed: Bed, host: Host, device: str) -> None:
    bed.monitor(host.name, {"execute": "device_del", "arguments": {"id": device}})
    for _ in Deadline.after(GONE_DEADLINE_S).polls(0.5):
        if device not in _children(bed, host, "/machine/peripheral"):
            return
    raise MachineError(
        f"bed '{bed.record.name}': host '{host.name}': device '{device}' is still there {GONE_DEADLINE_S:.0f} s after the guest "
        "was asked to let it go (its console says why)"
    )


def _children(bed: Bed, host: Host, path: str) -> list[str]:
    return [child["name"] for child in bed.monitor(host.name, {"execute": "qom-list", "arguments": {"path": path}})]


def _holders(topology: Topology, device: str) -> list[Host]:
    return [host for host in topology.hosts if any(place.device == device for place in host.attachments())]


def _place(host: Host, device: str) -> Attachment:
    return next(place for place in host.attachments() if place.device == device)


def _with_state(bed: Bed, device: str, plugged: bool) -> Bed:
    """The bed with the device come or gone, on record in memory alone."""
    record = replace(bed.record, plugged={**bed.record.plugged, device: plugged})
    return replace(bed, hosts=replace(bed.hosts, record=record), topology=bed.topology.with_plugged({device: plugged}))


def _note(bed: Bed) -> None:
    bed.folder.write(bed.record)
