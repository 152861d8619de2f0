from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def sysfs(tmp_path):
    """Lays a recorded tree of /sys/devices/system/node out in a folder; `edits` replace text in it first."""

    def lay(*edits, name="remote-numa-guest.txt"):
        text = (RECORDED / name).read_text()
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        for part in text.split("== ")[1:]:
            path, _, content = part.partition("\n")
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return tmp_path

    return lay
