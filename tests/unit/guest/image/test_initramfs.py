import stat

from guest.image.initramfs import Archive, write_initrd
from guest.keys import guest_files, make_key


def unpack(raw):
    """A reader of `newc` archives written from the format's description: name -> (mode, content)."""
    entries, at = {}, 0
    while at < len(raw):
        assert raw[at : at + 6] == b"070701", f"no header at {at}"
        fields = [int(raw[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = raw[at + 110 : at + 110 + name_size - 1].decode()
        begin = (at + 110 + name_size + 3) & ~3
        if name != "TRAILER!!!":
            entries[name] = (mode, raw[begin : begin + size])
        at = (begin + size + 3) & ~3
    return entries


def test_parents_come_before_what_lies_in_them():
    archive = Archive()
    archive.add("a/b/c", b"1")
    archive.add("a/d", b"2")
    assert list(unpack(archive.finished())) == ["a", "a/b", "a/b/c", "a/d"]


def test_content_of_any_length_keeps_the_archive_aligned():
    archive = Archive()
    for size in range(9):
        archive.add(f"f{size}", b"x" * size)
    assert {name: len(content) for name, (_, content) in unpack(archive.finished()).items()} == {
        f"f{size}": size for size in range(9)
    }


def test_a_beds_files_follow_the_images_and_lie_in_the_overlay(tmp_path):
    base = Archive()
    base.add("init", b"the init", 0o755)
    (tmp_path / "base").write_bytes(base.finished())
    runtime = tmp_path / "runtime"
    (runtime / "native").mkdir(parents=True)
    (runtime / "__pycache__").mkdir()
    (runtime / "__pycache__" / "a.pyc").write_bytes(b"stale")
    (runtime / "a.py").write_text("print(1)")
    (runtime / "native" / "libx.so").write_bytes(b"ELF")
    (runtime / "native" / "libx.so").chmod(0o755)

    write_initrd(tmp_path / "base", {"/opt/cxlbed": runtime, "/etc/hostname": b"a\n"}, tmp_path / "out")

    entries = unpack((tmp_path / "out").read_bytes())
    assert entries["init"] == (stat.S_IFREG | 0o755, b"the init")
    assert entries["overlay/etc/hostname"] == (stat.S_IFREG | 0o600, b"a\n")
    assert entries["overlay/opt/cxlbed/native/libx.so"] == (stat.S_IFREG | 0o755, b"ELF")
    assert not any("__pycache__" in name for name in entries)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "runtime"]


def test_roots_home_is_closed_to_others_as_sshd_wants_it(tmp_path):
    (tmp_path / "base").write_bytes(Archive().finished())
    write_initrd(tmp_path / "base", guest_files("a", make_key().public, make_key()), tmp_path / "out")
    entries = unpack((tmp_path / "out").read_bytes())
    for folder in ("overlay/root", "overlay/root/.ssh"):
        assert entries[folder][0] == stat.S_IFDIR | 0o700
    assert entries["overlay/etc/ssh/ssh_host_ed25519_key"][0] == stat.S_IFREG | 0o600


def test_two_beds_never_have_the_same_key():
    assert make_key() != make_key()
