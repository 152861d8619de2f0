"""A bed's life as its users see it: up, status, exec, console, down, and every way in which it can be cut short."""

import json
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from emulation.machines import bed as beds
from emulation.machines import hypervisor as hypervisors
from emulation.machines import launch, ports
from emulation.machines.emulator.choice import preview
from emulation.machines.hypervisor import EMBEDDED, Libvirt
from emulation.machines.record import bed_folder
from qemu_configs import bedfile
from tests.vm.command import command, emulators_of, environment


def started(arguments, state_folder, **changes):
    return subprocess.Popen(
        [*command(), *arguments],
        env=environment(state_folder, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )


def wait_until(holds, what, deadline_s=60):
    give_up = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < give_up, f"waited {deadline_s} s for {what}"
        time.sleep(0.1)


def test_a_bed_lives_across_processes_and_two_of_one_topology_do_not_clash(cxlbed, state_folder, tmp_path):
    first = cxlbed("up", "direct", "--json", str(tmp_path / "up.json"))
    assert first.returncode == 0, first.stderr
    up = json.loads((tmp_path / "up.json").read_text())
    assert up["ready_s"] > 0
    assert cxlbed("up", "direct", "--name", "second").returncode == 0
    again = cxlbed("up", "direct", "--json", "-")
    assert json.loads(again.stdout)["hosts"] == up["hosts"], "up of a bed that is up must do nothing"

    shown = json.loads(cxlbed("status", "--json", "-").stdout)["beds"]
    assert [(entry["name"], entry["hosts"][0]["state"]) for entry in shown] == [
        ("direct", "running"),
        ("second", "running"),
    ]
    assert shown[0]["accelerator"] in ("kvm", "tcg")
    assert shown[0]["hosts"][0]["ssh_port"] != shown[1]["hosts"][0]["ssh_port"]

    assert cxlbed("exec", "second", "--", "test", "-c", "/dev/dax0.0").returncode == 0
    assert cxlbed("exec", "second", "--", "sh", "-c", "exit 7").returncode == 7
    assert "sshd" in cxlbed("console", "direct").stdout or "Server listening" in cxlbed("console", "direct").stdout

    conflicting = cxlbed("up", "switched", "--name", "second")
    assert conflicting.returncode == 2
    assert "is up from another bed file" in conflicting.stderr

    assert cxlbed("down", "direct").returncode == 0
    assert [entry["name"] for entry in json.loads(cxlbed("status", "--json", "-").stdout)["beds"]] == ["second"]
    assert cxlbed("down", "--all").returncode == 0
    assert emulators_of(state_folder) == []
    assert cxlbed("down", "direct").returncode == 2


def test_the_guest_listens_on_loopback_alone(bed_listeners):
    assert bed_listeners
    assert set(bed_listeners) == {"127.0.0.1"}


@pytest.fixture
def bed_listeners(cxlbed_beds):
    booted = cxlbed_beds("direct", False)
    port = booted.record.hosts[0].ssh_port
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    return [
        socket.inet_ntoa(bytes.fromhex(address)[::-1])
        for address, hex_port in (entry.split(":") for entry in local)
        if int(hex_port, 16) == port
    ]


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting", "booting"])
def test_an_interrupted_up_leaves_nothing_running(state_folder, blow, moment):
    process = started(["up", "direct"], state_folder)
    record = state_folder / "direct" / "bed.json"
    wait_until(record.exists if moment == "starting" else lambda: emulators_of(state_folder), moment)
    if moment == "booting":
        time.sleep(2)
    process.send_signal(blow)
    assert process.wait(timeout=60) in (130, 143)
    process.communicate()
    assert emulators_of(state_folder) == []
    assert not record.exists()


@pytest.mark.parametrize("moment", ["starting", "booting"])
def test_down_all_finds_what_a_killed_up_left(cxlbed, state_folder, moment):
    process = started(["up", "shared-pool"], state_folder)
    record = state_folder / "shared-pool" / "bed.json"
    wait_until(record.exists if moment == "starting" else lambda: len(emulators_of(state_folder)) == 2, moment)
    memory_folder = json.loads(record.read_text())["memory_folder"]
    process.kill()
    process.communicate()
    time.sleep(1)  # a start that was under way in libvirt's process goes on without its parent
    ended = cxlbed("down", "--all")
    assert ended.returncode == 0, ended.stderr
    assert emulators_of(state_folder) == []
    assert not record.exists()
    assert not Path(memory_folder).exists()


def test_up_after_a_killed_up_starts_afresh(cxlbed, state_folder):
    process = started(["up", "direct"], state_folder)
    wait_until(lambda: emulators_of(state_folder), "QEMU")
    process.kill()
    process.communicate()
    assert cxlbed("up", "direct").returncode == 0
    assert len(emulators_of(state_folder)) == 1
    assert cxlbed("down", "direct").returncode == 0


def test_a_guest_that_never_answers_meets_its_deadline_and_shows_its_console(cxlbed, state_folder):
    ended = cxlbed("up", "direct", "--ready-deadline", "2")
    assert ended.returncode == 3
    assert "did not answer over SSH within 2 s" in ended.stderr
    assert "its console" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert emulators_of(state_folder) == []


IDLE_DOMAIN = """<domain type='qemu'><name>idle</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>{emulator}</emulator></devices></domain>"""


def test_a_qemu_that_libvirt_forgot_is_ended_by_its_domain_s_uuid(state_folder):
    hypervisor = Libvirt(EMBEDDED, state_folder / "v")
    hypervisor.prepare()
    domain_uuid = str(uuid.uuid4())
    xml = state_folder / "idle.xml"
    xml.write_text(IDLE_DOMAIN.format(uuid=domain_uuid, emulator=preview().path))
    hypervisor.start([xml])
    hypervisor.end_strays([str(uuid.uuid4())])
    assert len(list(hypervisors.emulators_of([domain_uuid]))) == 1
    hypervisor.end_strays([domain_uuid])
    assert list(hypervisors.emulators_of([domain_uuid])) == []
    shutil.rmtree(hypervisor.root)


def test_a_domain_whose_qemu_was_killed_is_not_said_to_run(state_folder):
    hypervisor = Libvirt(EMBEDDED, state_folder / "v")
    hypervisor.prepare()
    domain_uuid = str(uuid.uuid4())
    xml = state_folder / "idle.xml"
    xml.write_text(IDLE_DOMAIN.format(uuid=domain_uuid, emulator=preview().path))
    hypervisor.start([xml])
    assert hypervisor.states(["idle"]) == {"idle": "running"}
    (process,) = hypervisors.emulators_of([domain_uuid])
    process.kill()
    wait_until(lambda: not list(hypervisors.emulators_of([domain_uuid])), "QEMU to end")
    assert hypervisor.states(["idle"]) == {}
    hypervisor.destroy(["idle"])
    shutil.rmtree(hypervisor.root)


def test_without_qemu_the_message_says_what_to_install(cxlbed, tmp_path):
    ended = cxlbed("up", "direct", "--emulator", "system", PATH=str(tmp_path))
    assert ended.returncode == 3
    assert "qemu-system-x86_64: not found in PATH; run scripts/setup" in ended.stderr


def test_a_memory_folder_that_is_not_there_is_refused(cxlbed, state_folder):
    ended = cxlbed("up", "shared-pool", "--memory-folder", "/no/such/folder")
    assert ended.returncode == 2
    assert "memory folder /no/such/folder" in ended.stderr
    assert emulators_of(state_folder) == []


def test_a_port_that_someone_takes_meanwhile_costs_a_new_try(monkeypatch, state_folder):
    monkeypatch.setenv("CXLBED_STATE_DIR", str(state_folder))
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        offers = iter([taken, *(ports.free_ports(1)[0] for _ in range(3))])
        monkeypatch.setattr(ports, "_unused_port", lambda: next(offers))
        with beds.booted(bedfile.load("direct"), "squatted", launch.Options(), print) as bed:
            assert bed.record.hosts[0].ssh_port != taken


def test_a_launch_that_qemu_refuses_carries_the_xml_and_qemus_words(monkeypatch, state_folder):
    monkeypatch.setenv("CXLBED_STATE_DIR", str(state_folder))
    render = launch.render.domain_xml
    nonsense = "<qemu:arg value='-device'/><qemu:arg value='nonsense-device'/></qemu:commandline>"
    monkeypatch.setattr(
        launch.render, "domain_xml", lambda *arguments: render(*arguments).replace("</qemu:commandline>", nonsense)
    )
    with pytest.raises(launch.LaunchError) as refused:
        beds.up(bedfile.load("direct"), "refused", launch.Options(), print)
    said = str(refused.value)
    assert "'nonsense-device' is not a valid device model name" in said
    kept = Path(said.split("domain XML: ")[1].splitlines()[0])
    assert "nonsense-device" in kept.read_text()
    shutil.rmtree(kept.parent)
    assert bed_folder("refused").read() is None
    assert emulators_of(state_folder) == []
