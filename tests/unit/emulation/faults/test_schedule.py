"""Every step is met once; and a little protocol of its own, a letter and a flag that says that it is there, shows what is found."""

import numpy as np
import pytest

from emulation.errors import InputError
from emulation.faults.schedule import (
    Encounter,
    HostDeath,
    SteppingStore,
    die,
    meet_at_every_step,
    write_steps,
)
from emulation.stores.incoherent import IncoherentStore
from sac_runtime.memory.mapped import MappedStore
from sac_runtime.rows.layout import LINE_BYTES, KvLayout

FLAG, LETTER = 0, LINE_BYTES  # byte offsets; the letter has two lines
TEXT = np.arange(2 * LINE_BYTES, dtype=np.uint8) + 1


def part_of(offset):
    return "flag" if offset < LETTER else "letter"


def put(store, offset, values, *, flush=True, fence=True):
    store.write_bytes(offset, values)
    if flush:
        store.flush(offset, values.size)
    if fence:
        store.fence()


def send(store):
    put(store, LETTER, TEXT)
    put(store, FLAG, np.ones(1, np.uint8))


def get(store, offset, size):
    out = np.empty(size, np.uint8)
    store.invalidate(offset, size)
    store.fence()
    store.read_bytes(offset, out)
    return out


def receive(store):
    """The letter, or None if there is none yet."""
    return get(store, LETTER, TEXT.size) if get(store, FLAG, 1)[0] else None


def require_whole_or_none(store):
    letter = receive(store)
    assert letter is None or (letter == TEXT).all(), "half a letter"


@pytest.fixture
def memory():
    with MappedStore.anonymous(KvLayout.fp8(), 1, huge_pages=False, metadata_bytes=4096) as store:
        yield store


@pytest.fixture
def make(memory):
    """A reader comes while a writer sends by `send`, or the writer dies and a reader comes then."""

    def maker(act=send, death=False):
        def encounter(seed):
            memory.write_bytes(0, np.zeros(4096, np.uint8))
            writer, reader = SteppingStore(memory, seed, part_of), IncoherentStore(memory)
            look = lambda: require_whole_or_none(reader)  # noqa: E731
            return Encounter(writer, lambda: act(writer), die if death else look, look)

        return encounter

    return maker


def test_every_step_is_met_once_in_order(memory):
    whole = SteppingStore(memory, part_of=part_of)
    send(whole)
    trails = []

    def encounter(seed):
        store = SteppingStore(memory, part_of=part_of)
        return Encounter(store, lambda: send(store), lambda: trails.append(store.trail.copy()))

    assert meet_at_every_step(encounter) == len(whole.trail) == 9
    assert trails == [whole.trail[: step + 1] for step in range(9)]


def test_a_step_is_an_access_or_a_line_that_the_cache_writes(memory):
    store = SteppingStore(memory, part_of=part_of)
    send(store)
    assert store.trail == [
        *("write letter", "flush letter", "fence", "write line", "write line"),
        *("write flag", "flush flag", "fence", "write line"),
    ]


def test_by_an_odd_seed_a_line_may_be_written_before_its_fence(memory):
    def early(seed):
        store = SteppingStore(memory, seed, part_of)
        send(store)
        return store.trail.index("write line") < store.trail.index("fence")

    assert not any(early(seed) for seed in range(0, 20, 2))
    assert any(early(seed) for seed in range(1, 20, 2))


def test_the_write_steps_of_a_trail_are_its_recipe(memory):
    store = SteppingStore(memory, part_of=part_of)
    receive(store)
    send(store)
    receive(store)
    assert write_steps(store.trail) == ["write letter", "flush letter", "fence", "write flag", "flush flag", "fence"]


@pytest.mark.parametrize("death", [False, True], ids=["a reader comes", "the writer dies"])
def test_a_protocol_in_the_right_order_passes(make, death):
    assert meet_at_every_step(make(death=death), seeds_per_step=2) >= 9


def flag_first(store):
    put(store, FLAG, np.ones(1, np.uint8))
    put(store, LETTER, TEXT)


def letter_not_flushed(store):
    put(store, LETTER, TEXT, flush=False)
    put(store, FLAG, np.ones(1, np.uint8))


def one_fence_for_both(store):
    put(store, LETTER, TEXT, fence=False)
    put(store, FLAG, np.ones(1, np.uint8))


@pytest.mark.parametrize("broken", [flag_first, letter_not_flushed, one_fence_for_both], ids=lambda act: act.__name__)
def test_a_protocol_in_the_wrong_order_is_noticed(make, broken):
    with pytest.raises(AssertionError, match="half a letter"):
        meet_at_every_step(make(broken), seeds_per_step=2)


@pytest.mark.parametrize("broken", [flag_first, one_fence_for_both], ids=lambda act: act.__name__)
def test_a_death_in_the_wrong_order_is_noticed(make, broken):
    with pytest.raises(AssertionError, match="half a letter"):
        meet_at_every_step(make(broken, death=True), seeds_per_step=2)


def test_a_host_that_dies_leaves_its_cache_to_be_lost_or_written_back(memory):
    for aftermath, letter in (("lose_cache", 0), ("write_back_everything", 1)):
        memory.write_bytes(0, np.zeros(4096, np.uint8))
        store = SteppingStore(memory)
        store.arm(1, die)  # after the write, before the flush
        with pytest.raises(HostDeath):
            send(store)
        getattr(store, aftermath)()
        assert get(IncoherentStore(memory), LETTER, 1)[0] == letter


def test_an_act_without_an_end_is_refused(make):
    with pytest.raises(InputError, match="not over after most_steps=5"):
        meet_at_every_step(make(), most_steps=5)
