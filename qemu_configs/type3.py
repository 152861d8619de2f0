"""A Type-3 device in QEMU's words: its memory backends, itself, and the ports that devices sit on.

Knows QEMU's properties, as QMP takes them (`object-add`, `device_add`); render.py writes the same on a command line.
"""

from collections.abc import Iterator
from pathlib import Path

from qemu_configs.topology import Attachment, Bridge, Device, Host, Switch

Arguments = dict[str, object]


def root_port(bridge: Bridge, number: int) -> str:
    """QEMU's id of a bridge's root port; devices come first, then switches, then free ports."""
    return f"bridge.{bridge.name}.port{number}"


def downstream_port(switch: Switch, number: int) -> str:
    """QEMU's id of a switch's downstream port; devices come first, then free ports."""
    return f"switch.{switch.name}.port{number}"


def port_of(attachment: Attachment) -> str:
    """QEMU's id of the port that a device sits on, or will when it is plugged."""
    if attachment.switch is not None:
        return downstream_port(attachment.switch, attachment.switch.devices.index(attachment.device))
    return root_port(attachment.bridge, attachment.bridge.devices.index(attachment.device))


def ports(host: Host) -> list[str]:
    """QEMU's ids of all ports of a host that a device can sit on, free ones too, in the order of the file."""
    found = []
    for bridge in host.bridges:
        taken = range(len(bridge.devices), len(bridge.devices) + len(bridge.switches))
        found += [root_port(bridge, number) for number in range(bridge.num_ports) if number not in taken]
        for switch in bridge.switches:
            found += [downstream_port(switch, number) for number in range(switch.num_ports)]
    return found


def backends(device: Device, folder: Path) -> Iterator[Arguments]:
    """The memory behind a device, one sparse file of `folder` for each kind that it has; hosts that share it share these."""
    for kind, size_bytes in (
        ("mem", device.size_bytes),
        ("pmem", device.persistent_size_bytes),
        ("lsa", device.lsa_size_bytes),
        ("dc", device.dc_size_bytes),
    ):
        if size_bytes:
            file = f"{device.name}.mem" if kind == "mem" else f"{device.name}.{kind}.mem"
            yield {
                "qom-type": "memory-backend-file",
                "id": f"{kind}.{device.name}",
                "share": True,
                "size": size_bytes,
                "mem-path": str(folder / file),
            }


def type3(device: Device, bus: str) -> Arguments:
    """The device itself, on the port `bus`."""
    arguments: Arguments = {"driver": "cxl-type3", "bus": bus, "id": device.name, "sn": device.serial}
    if device.size_bytes:
        arguments["volatile-memdev"] = f"mem.{device.name}"
    if device.persistent_size_bytes:
        arguments["persistent-memdev"] = f"pmem.{device.name}"
    if device.lsa_size_bytes:
        arguments["lsa"] = f"lsa.{device.name}"
    if device.back_invalidate:
        arguments |= {"hdm-db": True, "x-256b-flit": True}
    if device.dc_size_bytes:
        arguments |= {"volatile-dc-memdev": f"dc.{device.name}", "num-dc-regions": device.dc_regions}
    return arguments
