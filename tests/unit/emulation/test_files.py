import os
from pathlib import Path

import pytest

from emulation.errors import InputError
from emulation.files import read_text, write_whole
from emulation.serving.hardware_files import load_gpu, load_model, load_rdma
from emulation.serving.observed import read_observed
from emulation.timing.profile import load_profile
from sac_runtime.errors import TraceError
from sac_runtime.traces.tables import open_trace


@pytest.mark.parametrize(("content", "raw"), [("täxt\n", "täxt\n".encode()), (b"\0raw", b"\0raw")])
def test_a_file_is_replaced_and_nothing_lies_beside_it(tmp_path, content, raw):
    path = tmp_path / "file"
    path.write_text("old")
    write_whole(path, content)
    assert path.read_bytes() == raw
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", "new")
    assert {found.name for found in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("reader", [load_gpu, load_model, load_rdma, load_profile, read_observed, open_trace])
def test_a_pipe_that_nobody_fills_is_refused_and_not_waited_for(tmp_path, reader):
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises((InputError, TraceError), match="is a device or a pipe; name a file that can be read"):
        reader(pipe if reader in (read_observed, open_trace) else str(pipe))


def test_a_device_that_never_ends_is_refused():
    with pytest.raises(InputError, match="model file /dev/zero: is a device or a pipe"):
        read_text("model file", Path("/dev/zero"))
