"""A bed's life on a hypervisor of our own: every way in which up, status and down can be cut short, without a machine."""

import re
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from emulation.errors import InputError, MachineError
from emulation.machines import bed as beds
from emulation.machines import launch
from emulation.machines.hypervisor import HypervisorError, PortTakenError
from emulation.machines.launch import LaunchError, Options
from emulation.machines.promise import PromiseError
from emulation.machines.record import bed_folder
from guest.errors import CommandError, ImageError, SilentGuestError
from qemu_configs import bedfile
from qemu_configs.topology import MIB
from tests.support.beds import RECORDED, World

TOPOLOGY = bedfile.load("shared-pool")  # two hosts, a and b


@pytest.fixture
def place(monkeypatch):
    """A folder of the test's own, short for the sockets that a bed would have in it."""
    monkeypatch.setattr(launch, "carried", dict)  # 2 MB that no guest here reads
    with tempfile.TemporaryDirectory(prefix="cxlbed-t", dir="/tmp") as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        (folder / "shm").mkdir()
        monkeypatch.setenv("PATH", str(folder / "bin"))
        monkeypatch.setenv("CXLBED_STATE_DIR", str(folder / "s"))
        yield folder


@pytest.fixture
def world(place):
    return World(place, "shared-pool")


@pytest.fixture
def up(place, world):
    options = Options(accelerator="tcg", memory_folder=place / "shm")

    def call(topology=TOPOLOGY, progress=lambda _text: None):
        return beds.up(topology, "x", options, progress, world.backend)

    return call


@pytest.fixture
def left(place, world):
    """What there is of any bed: files, memory, hosts."""

    def all_of_it():
        paths = [path.name for folder in ("s", "shm") for path in (place / folder).glob("*")]
        return [*paths, *sorted(world.running)]

    return all_of_it


def down(world):
    return beds.down("x", lambda _text: None, world.backend)


def test_a_bed_comes_up_in_order_and_goes_without_a_trace(up, world, left):
    said = []
    bed = up(progress=said.append)
    assert world.calls[:3] == ["image", "emulator", "prepare"]
    assert world.running == {"cxlbed-x-a", "cxlbed-x-b"}
    assert said[0] == "starting a, b (tcg)"
    assert sorted(said[1:]) == [
        f"{host}: {what}" for host in "ab" for what in ("answers", "shows what the bed file promises")
    ]
    assert bed.host("b").stores == {"r0": "dax:/dev/dax0.0", "r1": "dax:/dev/dax1.0"}
    assert bed.record == bed_folder("x").read()
    assert bed.record.ready_s is not None
    assert down(world)
    assert left() == []
    assert not down(world)


def test_a_bed_that_stands_is_handed_back_untouched(up, world):
    first = up()
    calls = len(world.calls)
    assert up().record == first.record
    assert world.calls[calls:] == ["states"]


def test_a_bed_that_stands_is_refused_to_another_bed_file(up, world):
    record = up().record
    with pytest.raises(InputError, match=r"bed 'x': is up from another bed file; end it \(cxlbed down x\)"):
        up(bedfile.load("direct"))
    assert bed_folder("x").read() == record
    assert len(world.running) == 2


def test_a_bed_that_lost_a_host_is_ended_and_brought_up_anew(up, world):
    first = up().record
    world.running.remove("cxlbed-x-b")
    second = up().record
    assert world.running == {"cxlbed-x-a", "cxlbed-x-b"}
    assert {host.uuid for host in first.hosts}.isdisjoint(host.uuid for host in second.hosts)
    assert not Path(first.memory_folder).exists()


STEPS = ["image", "prepare", "start", "connect", "run"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "blow", [KeyboardInterrupt(), SystemExit(143), OSError("no space"), SilentGuestError("no answer")]
)
def test_an_up_that_is_cut_off_at_any_step_leaves_nothing_behind(up, world, left, step, blow):
    world.fail(step, blow)
    with pytest.raises(type(blow)):
        up()
    assert left() == []


@pytest.mark.parametrize("words", ["starting a, b", "a: answers", "b: shows"])
def test_an_up_that_is_interrupted_while_it_speaks_leaves_nothing_behind(up, left, words):
    def interrupt(text):
        if text.startswith(words):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        up(progress=interrupt)
    assert left() == []


@pytest.mark.parametrize("moment", ["write_record", "start", "provision", "finish"])
def test_down_finds_all_that_a_killed_up_left_after_each_step(up, world, left, monkeypatch, moment):
    def killed(self, *arguments):
        step(self, *arguments)
        raise KeyboardInterrupt

    step = getattr(launch.Launch, moment)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(launch.Launch, moment, killed)
        patched.setattr(launch.Hosts, "end", lambda _self: None)  # a killed process does not clear up
        up()
    assert "x" in left()
    assert down(world)
    assert left() == []


def test_an_image_that_cannot_be_built_leaves_nothing_behind(up, world, left):
    world.fail("image", ImageError("no mirror"))
    with pytest.raises(ImageError, match="no mirror"):
        up()
    assert left() == []
    assert world.calls == ["image"]


def test_a_port_that_someone_takes_meanwhile_costs_a_new_try_with_others(up, world):
    world.fail("start", PortTakenError("Could not set up host forwarding rule"))
    bed = up()
    assert world.calls.count("start") == 2
    assert world.calls[world.calls.index("start") + 1] == "destroy"
    ports = [int(port) for xml in world.xmls for port in re.findall(r"hostfwd=tcp:127\.0\.0\.1:(\d+)-", xml)]
    assert ports[2:] == [host.ssh_port for host in bed.record.hosts]
    assert world.running == {"cxlbed-x-a", "cxlbed-x-b"}


def test_ports_that_are_taken_again_and_again_are_a_failure_to_launch(up, world, left):
    world.fail("start", *[PortTakenError("host forwarding rule")] * 3)
    with pytest.raises(LaunchError, match="host forwarding rule") as raised:
        up()
    shutil.rmtree(kept_by(raised.value))
    assert world.calls.count("start") == 3
    assert left() == []


def test_two_beds_are_never_given_one_port(up, world, monkeypatch):
    given = up().record.hosts[0].ssh_port
    offers = iter([given, given, 1])
    monkeypatch.setattr("emulation.machines.ports._unused_port", lambda: next(offers))
    from emulation.machines.ports import free_ports

    assert free_ports(1) == [1]


def kept_by(error):
    return Path(str(error).split("domain XML: ")[1].splitlines()[0]).parent


def test_a_launch_that_fails_keeps_xml_and_log_and_no_key(up, world, left):
    world.fail("start", HypervisorError("libvirt embedded: start: no such device"))
    with pytest.raises(LaunchError) as raised:
        up()
    lines, kept = str(raised.value).splitlines(), kept_by(raised.value)
    try:
        assert lines[0] == "bed 'x': QEMU did not start: libvirt embedded: start: no such device"
        assert lines[1] == f"  domain XML: {kept / 'a.xml'}"
        assert lines[2:5] == ["  QEMU's log ends:", "    first", "    QEMU's last words"]
        assert "<name>cxlbed-x-a</name>" in (kept / "a.xml").read_text()
        assert not [path for path in kept.rglob("*") if path.name.startswith("id_") or path.suffix == ".initrd"]
    finally:
        shutil.rmtree(kept)
    assert left() == []


def test_a_guest_that_shows_something_else_does_not_come_up(up, world, left):
    world.shown = (RECORDED / "direct.txt").read_bytes()
    with pytest.raises(PromiseError, match="promised, not shown"):
        up()
    assert left() == []


def test_a_step_that_fails_in_a_guest_is_named(up, world, left):
    world.fail("run", CommandError("provisioning", 1, "region 'r0': no root decoder"))
    with pytest.raises(CommandError, match="no root decoder"):
        up()
    assert left() == []


def test_half_a_bed_can_be_ended(up, world, left):
    up()
    world.running.remove("cxlbed-x-a")
    assert down(world)
    assert left() == []


def test_a_bed_whose_hypervisor_refuses_is_ended_by_its_processes(up, world, left):
    up()
    world.fail("destroy", HypervisorError("cannot be opened"))
    assert down(world)
    assert world.calls[-2:] == ["destroy", "end_strays"]
    assert left() == []


def test_the_status_of_a_bed_says_what_its_hosts_do(up, world):
    up()
    world.running.remove("cxlbed-x-b")
    (entry,) = beds.status(world.backend)
    assert (entry.name, entry.topology, entry.accelerator) == ("x", "shared-pool", "tcg")
    assert [(host.name, host.state) for host in entry.hosts] == [("a", "running"), ("b", "gone")]


def test_the_status_of_a_bed_whose_hypervisor_is_gone_is_unknown_and_says_why(up, world):
    up()
    world.fail("states", HypervisorError("cannot be opened"))
    (entry,) = beds.status(world.backend)
    assert [host.state for host in entry.hosts] == ["unknown: cannot be opened"] * 2


def test_a_bed_on_its_way_is_not_found_but_its_console_is(up, world):
    states = []

    def look(text):
        if text == "a: answers":
            with pytest.raises(InputError, match="is not ready yet"):
                beds.find("x", backend=world.backend)
            states.append(beds.find("x", must_be_ready=False, backend=world.backend).record.ready_s)

    up(progress=look)
    assert states == [None]


def test_a_second_up_waits_for_the_first_and_takes_its_bed(up, world):
    begun, go_on = threading.Event(), threading.Event()
    records = []

    def wait(text):
        if text.startswith("starting"):
            begun.set()
            assert go_on.wait(20)

    first = threading.Thread(target=lambda: records.append(up(progress=wait).record))
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=lambda: records.append(up().record))
    second.start()
    go_on.set()
    first.join(20)
    second.join(20)
    assert records[0] == records[1]
    assert world.calls.count("start") == 1


def test_a_memory_folder_without_room_is_refused_before_anything_is_left(place, world, left):
    size_bytes = shutil.disk_usage(place).free // MIB * MIB + (1 << 40)
    devices = tuple(device.model_copy(update={"size_bytes": size_bytes}) for device in TOPOLOGY.devices)
    with pytest.raises(MachineError, match="MiB free, the bed's devices hold"):
        beds.up(
            TOPOLOGY.model_copy(update={"devices": devices}),
            "x",
            Options(memory_folder=place / "shm"),
            print,
            world.backend,
        )
    assert left() == []
    assert world.calls == []


def test_a_bed_s_monitor_goes_to_the_host_s_domain(up):
    bed = up()
    assert bed.monitor("b", {"execute": "query-status"}) == {"told": "cxlbed-x-b", "execute": "query-status"}
    with pytest.raises(InputError, match=r"no host 'c' \(it has a, b\)"):
        bed.monitor("c", {"execute": "query-status"})


def test_a_bed_shows_the_logs_that_are_there(up):
    bed = up()
    bed.folder.console("a").write_text("boots\n")
    assert bed.logs() == {
        "a console": "boots\n",
        "a QEMU log": "first\nQEMU's last words\n",
        "b QEMU log": "first\nQEMU's last words\n",
    }
