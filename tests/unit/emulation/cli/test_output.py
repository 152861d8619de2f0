import json
import os
import stat
import threading

import pytest

from emulation.cli.output import JsonOption, file_option, folder_option, write_json
from emulation.errors import InputError

tried = file_option("--json", "name another file")


def place(tmp_path, kind):
    path = tmp_path / kind
    match kind:
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)
        case "below a file":
            path.write_text("")
            return path / "result.json"
        case "long":
            return tmp_path / ("a" * 300)
        case "below a long":
            return tmp_path / ("a" * 300) / "result.json"
    return path


@pytest.mark.parametrize("kind", ["folder", "link to itself", "below a file", "long", "below a long"])
def test_a_place_that_takes_no_file_is_refused_before_any_work(tmp_path, kind):
    path = place(tmp_path, kind)
    with pytest.raises(InputError, match=r"--json .*; name another file"):
        tried(path)


@pytest.mark.parametrize("kind", ["link to itself", "below a file", "long"])
def test_a_place_that_is_no_folder_is_refused_before_any_work(tmp_path, kind):
    with pytest.raises(InputError, match=r"--plots .* cannot be made .*; name another folder"):
        folder_option("--plots")(place(tmp_path, kind))


def test_a_place_that_takes_a_file_is_left_as_it_was(tmp_path):
    old = tmp_path / "old.json"
    old.write_text("old")
    assert tried(old) == old
    assert old.read_text() == "old"
    fresh = tmp_path / "new" / "folder" / "result.json"
    assert tried(fresh) == fresh
    assert not fresh.exists()
    assert tried(None) is None
    assert JsonOption.__metadata__[0].callback is not None


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    while True:  # until the reader has opened it
        try:
            write_json(tried(pipe), {"a": "b" * 100_000})
            break
        except InputError as error:
            assert "cannot be written" in str(error)
    reader.join()
    assert json.loads(got[0]) == {"a": "b" * 100_000}
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(InputError, match="cannot be written"):  # nobody reads; it would wait for ever
        write_json(pipe, {})


def test_a_link_goes_on_to_name_the_file_that_it_named(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_json(tried(link), {"new": 1})
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"new": 1}


def test_a_device_stays_a_device(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.close(os.open(device, os.O_WRONLY))
    except PermissionError:
        device = tmp_path / "link"
        device.symlink_to("/dev/null")  # who cannot make one cannot replace it either
    write_json(tried(device), {"a": 1})
    assert stat.S_ISCHR(device.stat().st_mode)
    assert list(tmp_path.iterdir()) == [device]
