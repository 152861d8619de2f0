"""The table of beds."""

from rich.console import Console

from emulation.machines.hosts import BedStatus, HostStatus
from emulation.report.beds import beds_table


def test_a_beds_name_is_whole_on_a_narrow_terminal(capsys):
    hosts = (HostStatus("a", "running", 41000, "cxlbed-x-a", {}),)
    name = "t-shared-pool-86b1e442"
    status = BedStatus(
        name=name, topology="shared-pool", uri="embedded", accelerator="tcg", emulator="QEMU 11.1", ready_s=12.5,
        folder="/x", hosts=hosts,
    )  # fmt: skip
    Console(width=80).print(beds_table([status]))
    assert name in capsys.readouterr().out
