"""A program that is right by luck, on memory that is coherent, is told which of its reads could have gone wrong."""

import numpy as np
import pytest

from emulation.stores.robustness import RobustnessMonitor, RobustStore
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.pool.journal import JournalWriter
from sac_runtime.pool.pool import Pool
from sac_runtime.rows.layout import KvLayout
from tests.support.robust_pool import pools_meet

FLAG, LETTER = 0, 64
TEXT = np.arange(128, dtype=np.uint8)


@pytest.fixture
def monitor():
    with MappedStore.anonymous(KvLayout.fp8(), 4, huge_pages=False, metadata_bytes=4096) as memory:
        yield RobustnessMonitor(memory, lambda offset: "flag" if offset < LETTER else "letter")


def send(store, steps="wfF"):
    """The letter, then the flag; steps: of each, what is done: write, flush, Fence."""
    for offset, values in ((LETTER, TEXT), (FLAG, np.ones(1, np.uint8))):
        for step in steps:
            if step == "w":
                store.write_bytes(offset, values)
            elif step == "f":
                store.flush(offset, values.size)
            else:
                store.fence()


def get(store, offset, size, invalidate=True):
    out = np.empty(size, np.uint8)
    if invalidate:
        store.invalidate(offset, size)
        store.fence()
    store.read_bytes(offset, out)
    return out


def told(monitor):
    return {(report.reason, report.part) for report in monitor.reports}


def test_a_letter_sent_and_received_right_is_not_reported(monitor):
    a, b = monitor.host("a"), monitor.host("b")
    for _ in range(3):
        send(a)
        assert get(b, FLAG, 1)[0] == 1
        assert (get(b, LETTER, TEXT.size) == TEXT).all()
        assert (get(a, LETTER, TEXT.size, invalidate=False) == TEXT).all()  # one's own writes one sees
    assert monitor.reports == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("w", {("unflushed", "flag"), ("unflushed", "letter")}),
        ("wF", {("unflushed", "flag"), ("unflushed", "letter")}),
        ("wf", {("unflushed", "flag"), ("unflushed", "letter")}),
        ("fwF", {("unflushed", "flag"), ("unflushed", "letter")}),
    ],
    ids=["nothing", "no flush", "no fence", "flushed before it is written"],
)
def test_a_writer_that_does_not_see_its_lines_to_memory_is_reported(monitor, steps, expected):
    a, b = monitor.host("a"), monitor.host("b")
    send(a, steps)
    get(b, FLAG, 1)
    get(b, LETTER, TEXT.size)
    assert told(monitor) == expected


def test_a_report_names_line_and_steps(monitor):
    a, b = monitor.host("a"), monitor.host("b")
    a.write_bytes(LETTER, TEXT)  # step 1
    get(b, LETTER + 64, 1)  # steps 2 to 4
    (report,) = monitor.reports
    assert str(report) == (
        "unflushed: step 4, b reads letter, the line at 128, which a wrote at step 1; "
        "it had not been flushed and fenced by its writer"
    )


def test_a_reader_that_does_not_invalidate_is_reported_though_it_never_read_the_line_before(monitor):
    a, b = monitor.host("a"), monitor.host("b")
    send(a)
    get(b, FLAG, 1)
    get(b, LETTER, TEXT.size, invalidate=False)
    assert told(monitor) == {("stale", "letter")}


def test_an_announcement_that_may_overtake_what_it_announces_is_reported(monitor):
    a, b = monitor.host("a"), monitor.host("b")
    a.write_bytes(LETTER, TEXT)
    a.write_bytes(FLAG, np.ones(1, np.uint8))
    a.flush(0, 192)
    a.fence()
    get(b, FLAG, 1)
    get(b, LETTER, TEXT.size)
    assert told(monitor) == {("unordered", "letter")}


def test_each_read_is_reported_once(monitor):
    a, b = monitor.host("a"), monitor.host("b")
    a.write_bytes(FLAG, np.ones(1, np.uint8))
    for _ in range(3):
        get(b, FLAG, 1)
    assert len(monitor.reports) == 1


def test_a_pool_relies_on_no_coherence():
    assert pools_meet() == set()


def forget(method, part):
    def break_it(patch):
        whole = getattr(RobustStore, method)

        def forgetful(self, offset, size_bytes):
            if self._monitor.part_of(offset) != part:
                whole(self, offset, size_bytes)

        patch.setattr(RobustStore, method, forgetful)

    return break_it


def rows_after_entries(patch):
    flush, append = Pool._flush, JournalWriter.append
    late = []
    patch.setattr(Pool, "_flush", lambda self, blocks: late.append((self, blocks)))

    def append_first(self, entries):
        append(self, entries)
        while late:
            flush(*late.pop())

    patch.setattr(JournalWriter, "append", append_first)


BREAKAGES = {
    ("unflushed", "rows"): forget("flush", "rows"),
    ("unflushed", "journal"): forget("flush", "journal"),
    ("unflushed", "state"): forget("flush", "state"),
    ("stale", "rows"): forget("invalidate", "rows"),
    ("stale", "journal"): forget("invalidate", "journal"),
    ("stale", "state"): forget("invalidate", "state"),
    ("unordered", "rows"): rows_after_entries,
}


@pytest.mark.parametrize("expected", BREAKAGES, ids=" ".join)
def test_a_pool_that_forgets_something_is_reported_in_one_run(monkeypatch, expected):
    BREAKAGES[expected](monkeypatch)
    assert expected in pools_meet()
