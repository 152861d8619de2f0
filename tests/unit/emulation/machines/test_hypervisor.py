"""Emulators that outlived their domain: any program with a domain's UUID among its arguments stands for QEMU."""

import subprocess
import sys
import time
import uuid

import pytest

from emulation.machines import hypervisor
from emulation.machines.hypervisor import EMBEDDED, Libvirt, PortTakenError, emulators_of

OBEDIENT = "print(flush=True); import time; time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {OBEDIENT}"


@pytest.fixture
def stray():
    """Starts a program with a fresh UUID for its domain; returns both. The program is ended with the test."""
    started = []

    def start(code):
        domain_uuid = str(uuid.uuid4())
        process = subprocess.Popen([sys.executable, "-c", code, "-uuid", domain_uuid], stdout=subprocess.PIPE)
        process.stdout.readline()
        started.append(process)
        return process, domain_uuid

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_emulator_is_known_by_its_domain_s_uuid(stray):
    process, domain_uuid = stray(OBEDIENT)
    assert [found.pid for found in emulators_of({domain_uuid})] == [process.pid]
    assert list(emulators_of({str(uuid.uuid4())})) == []
    assert list(emulators_of([])) == []


def test_strays_are_ended_and_others_are_left(stray, tmp_path):
    (one, its_uuid), (other, _) = stray(OBEDIENT), stray(OBEDIENT)
    Libvirt(EMBEDDED, tmp_path).end_strays([its_uuid])
    assert one.wait(5) == -15
    assert other.poll() is None


def test_a_stray_that_does_not_listen_is_killed_after_its_deadline(stray, tmp_path, monkeypatch):
    process, its_uuid = stray(DEAF)
    monkeypatch.setattr(hypervisor, "END_DEADLINE_S", 0.5)
    begun = time.monotonic()
    Libvirt(EMBEDDED, tmp_path).end_strays([its_uuid])
    assert process.wait(5) == -9
    assert time.monotonic() - begun >= 0.5


@pytest.mark.parametrize(
    ("words", "kind"),
    [("Could not set up host forwarding rule 'tcp:127.0.0.1:1-:22'", PortTakenError), ("no such device", None)],
)
def test_a_port_that_is_taken_is_told_from_other_refusals(monkeypatch, tmp_path, words, kind):
    def refuse(_self, verb, **_request):
        raise hypervisor.HypervisorError(f"libvirt embedded: {verb}: {words}")

    monkeypatch.setattr(Libvirt, "_ask", refuse)
    with pytest.raises(hypervisor.HypervisorError, match=words.split("'")[0]) as raised:
        Libvirt(EMBEDDED, tmp_path).start([])
    assert isinstance(raised.value, PortTakenError) == (kind is PortTakenError)
