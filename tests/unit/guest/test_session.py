"""Sessions against an SSH server of our own on a real socket: it runs commands on this machine, as a guest's sshd would there."""

import socket
import subprocess
import threading
import time
from contextlib import suppress

import paramiko
import pytest

from guest.errors import CommandError, GuestError, SilentGuestError
from guest.keys import make_key
from guest.session import Session


class Guest(paramiko.ServerInterface):
    """Lets in the one key and runs what it is asked to with sh."""

    def __init__(self, client_public):
        self.client_public = client_public

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_auth_publickey(self, username, key):
        known = f"{key.get_name()} {key.get_base64()}" == self.client_public.decode().strip()
        return paramiko.AUTH_SUCCESSFUL if known and username == "root" else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username):
        return "publickey"

    def check_channel_exec_request(self, channel, command):
        threading.Thread(target=answer, args=(channel, command), daemon=True).start()
        return True


def answer(channel, command):
    with subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:

        def feed():
            with suppress(BrokenPipeError):  # the command ended without reading all
                while chunk := channel.recv(1 << 16):
                    child.stdin.write(chunk)
                    child.stdin.flush()
            with suppress(BrokenPipeError):
                child.stdin.close()

        def pass_on(stream, send):
            while chunk := stream.read1(1 << 16):
                send(chunk)

        threads = [
            threading.Thread(target=feed, daemon=True),
            threading.Thread(target=pass_on, args=(child.stdout, channel.sendall)),
            threading.Thread(target=pass_on, args=(child.stderr, channel.sendall_stderr)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join()
        channel.send_exit_status(child.wait())
    channel.close()


class Place:
    """What a bed's folder holds for one host."""

    def __init__(self, folder):
        self.key, self.known_hosts, self.console = folder / "key", folder / "known_hosts", folder / "console"
        self.client, self.host = make_key(), make_key()
        self.key.write_bytes(self.client.private)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.know(self.host)

    def know(self, host_key):
        self.known_hosts.write_bytes(f"[127.0.0.1]:{self.port} ".encode() + host_key.public)

    def serve(self, host_key=None):
        host_key_file = self.key.with_name("host_key")
        host_key_file.write_bytes((host_key or self.host).private)

        def loop():
            while True:
                try:
                    accepted, _ = self.listener.accept()
                except OSError:
                    return
                transport = paramiko.Transport(accepted)
                transport.add_server_key(paramiko.Ed25519Key(filename=str(host_key_file)))
                transport.start_server(event=threading.Event(), server=Guest(self.client.public))

        threading.Thread(target=loop, daemon=True).start()

    def session(self, console=True):
        return Session(self.port, self.key, self.known_hosts, self.console if console else None)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.listener.close()


@pytest.fixture
def session(place):
    place.serve()
    place.console.write_text("Server listening on 0.0.0.0 port 22.\n")
    with place.session() as session:
        session.connect(deadline_s=20)
        yield session


def test_a_command_gives_its_output(session):
    outcome = session.run("echo out; echo err >&2")
    assert (outcome.status, outcome.text, outcome.stderr) == (0, "out\n", "err\n")


def test_a_command_that_fails_is_an_error_with_command_status_and_stderr(session):
    with pytest.raises(CommandError) as raised:
        session.run("echo wrong >&2; exit 7")
    assert (raised.value.command, raised.value.status, raised.value.stderr) == ("echo wrong >&2; exit 7", 7, "wrong\n")
    assert "`echo wrong >&2; exit 7` ended with status 7:\nwrong" in str(raised.value)


def test_a_command_may_fail_where_the_caller_says_so(session):
    assert session.run("exit 3", check=False).status == 3


def test_much_input_and_much_output_at_once_do_not_wait_for_each_other(session):
    content = bytes(range(256)) * (40 << 10)  # 10 MiB, five times an SSH window
    outcome = session.run("tee /dev/stderr", stdin=[content])
    assert outcome.stdout == content
    assert len(outcome.stderr) == len(content.decode(errors="replace"))


def test_a_process_is_talked_with_answer_by_answer(session, tmp_path):
    (tmp_path / "double.py").write_text(
        "import sys\nfor line in sys.stdin.buffer:\n    sys.stdout.buffer.write(line * 2)\n    sys.stdout.flush()\n"
    )
    with session.python_process(f"{tmp_path}/double.py") as process:
        for word in (b"one\n", b"two\n"):
            process.write(word)
            received = b""
            while len(received) < 2 * len(word):
                received += process.read(100)
            assert received == 2 * word
        assert process.finish().stdout == b""
        assert process.read(1) == b""


def test_a_process_that_fails_is_an_error_with_its_name_status_and_stderr(session, tmp_path):
    (tmp_path / "fail.py").write_text("import sys; sys.stdout.write('rest'); sys.stderr.write('wrong'); sys.exit(7)")
    with session.python_process(f"{tmp_path}/fail.py", name="the failing one") as process:
        assert process.finish(check=False).text == "rest"
        with pytest.raises(CommandError, match="`the failing one` ended with status 7:\nwrong"):
            process.finish()


def test_writing_to_a_process_that_has_ended_is_an_os_error_and_finish_says_why(session, tmp_path):
    (tmp_path / "end.py").write_text("import sys; sys.exit('no more')")
    with session.python_process(f"{tmp_path}/end.py") as process:
        with pytest.raises(OSError, match=r"[Cc]losed"):
            for _ in range(100):
                process.write(b"x" * (1 << 20))
        with pytest.raises(CommandError, match="no more"):
            process.finish()


@pytest.mark.parametrize("failure", [ZeroDivisionError, FileNotFoundError])
def test_a_failure_to_make_the_input_ends_the_command_and_is_raised(session, failure):
    def pieces():
        yield b"some"
        raise failure

    with pytest.raises(failure):
        session.run("cat", stdin=pieces())


def test_a_command_that_reads_nothing_ends_all_the_same(session):
    assert session.run("exit 0", stdin=[b"x" * (8 << 20)]).status == 0


def test_a_file_goes_into_the_guest_and_back(session, tmp_path):
    content = bytes(range(256))
    session.put(content, f"{tmp_path}/in the guest/file")
    assert session.get(f"{tmp_path}/in the guest/file") == content


def test_python_runs_a_script_with_arguments_and_input(session, tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, sys; print(os.environ['PYTHONPATH'], sys.argv[1:], sys.stdin.read())"
    )
    assert session.python(f"{tmp_path}/script.py", ["a b"], stdin=[b"i", b"n"]).text == "/opt/cxlbed ['a b'] in\n"


def test_a_guest_with_another_host_key_is_refused_at_once(place):
    place.serve(host_key=make_key())
    begun = time.monotonic()
    with place.session(console=False) as session, pytest.raises(GuestError, match="does not match"):
        session.connect(deadline_s=60)
    assert time.monotonic() - begun < 30


def test_a_guest_whose_host_key_nobody_knows_is_refused(place):
    place.serve()
    place.known_hosts.write_text("")
    with place.session(console=False) as session, pytest.raises(GuestError, match="not found in known_hosts"):
        session.connect(deadline_s=2)


def test_a_guest_that_never_answers_gives_its_consoles_tail_at_the_deadline(place):
    place.console.write_text("".join(f"line {n}\n" for n in range(100)))
    begun = time.monotonic()
    with place.session() as session, pytest.raises(SilentGuestError) as raised:
        session.connect(deadline_s=0.5)
    assert 0.5 <= time.monotonic() - begun < 5
    assert "did not answer over SSH within 0.5 s" in str(raised.value)
    assert str(raised.value).splitlines()[1:] == [f"  line {n}" for n in range(80, 100)]


def test_a_guest_that_takes_the_connection_and_says_nothing_meets_the_deadline_too(place):
    place.console.write_text("Server listening on 0.0.0.0 port 22.\n")
    begun = time.monotonic()
    with place.session() as session, pytest.raises(SilentGuestError, match="did not answer"):
        session.connect(deadline_s=1)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("last", ["cxlbed-init: FAILED: /dev/vda: No such file", "Kernel panic - not syncing"])
def test_a_guest_that_gives_up_is_not_waited_for(place, last):
    place.console.write_text(f"[    1.2] {last}\n")
    begun = time.monotonic()
    with place.session() as session, pytest.raises(SilentGuestError, match="gave up; its console"):
        session.connect(deadline_s=60)
    assert time.monotonic() - begun < 5


def test_a_guest_that_has_not_started_yet_is_waited_for(place):
    place.serve()
    threading.Timer(0.5, place.console.write_text, ["Server listening on 0.0.0.0 port 22.\n"]).start()
    with place.session() as session:
        session.connect(deadline_s=20)
        assert session.run("echo up").text == "up\n"
