"""Another machine behind a libvirt URI. Booting there takes a second machine and was tried by hand; here: URIs, and no answer."""

import socket

import pytest

from emulation.errors import InputError
from emulation.machines.remote import RemoteMachine, RemoteMachineError


@pytest.mark.parametrize("uri", ["embedded", "qemu:///session", "qemu:///system"])
def test_a_uri_of_this_machine_is_not_elsewhere(uri, tmp_path):
    assert RemoteMachine.of(uri, tmp_path / "tunnel") is None


def test_a_uri_over_ssh_names_account_machine_and_port(tmp_path):
    found = RemoteMachine.of("qemu+ssh://ann@lab7:2222/system", tmp_path / "tunnel")
    assert (found.target, found.port) == ("ann@lab7", 2222)
    assert RemoteMachine.of("qemu+ssh://lab7/system", tmp_path / "tunnel").target == "lab7"


def test_another_transport_is_refused_with_the_one_that_works(tmp_path):
    with pytest.raises(InputError, match=r"write qemu\+ssh://lab7/system"):
        RemoteMachine.of("qemu+tls://lab7/system", tmp_path / "tunnel")


def test_a_machine_that_does_not_answer_is_named_with_what_ssh_said(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = RemoteMachine.of(f"qemu+ssh://127.0.0.1:{closed.getsockname()[1]}/system", tmp_path / "tunnel")
        with pytest.raises(RemoteMachineError, match="Connection refused"):
            nobody.run_as()
