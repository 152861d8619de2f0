import pytest

from emulation.files import write_whole


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
