"""Random bed files and profiles, whole and broken: never a traceback or a hang, and what the rules accept, Linux makes.

CXLBED_EXAMPLES_TIMES=20 makes it a long run; CXLBED_EXAMPLES_SEED=word gives other examples.
"""

import copy
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from emulation.errors import InputError
from emulation.machines.this_machine import any_machine
from emulation.timing.profile import parse_profile
from emulation.timing.profile_folders import PROFILE_FOLDER
from qemu_configs.bedfile import STOCK_FOLDER, check_document, parse
from qemu_configs.errors import BedFileError
from qemu_configs.picture import picture_of
from qemu_configs.render import HostLaunch, qemu_argv
from qemu_configs.topology import Topology
from tests.support.linux_cxl import Kernel, RefusedError
from tests.support.random_beds import random_bed, spoil

TIMES = int(os.environ.get("CXLBED_EXAMPLES_TIMES", "1"))
SEED = os.environ.get("CXLBED_EXAMPLES_SEED", "")
DEADLINE_S = 20
MOST_TOLD_CHARACTERS = 100_000
# Refused for what Linux would not mind: QEMU's and our own rules, and windows that QEMU would not make.
NOT_OF_LINUX = (
    "free ports are outside",
    "for each of its targets",
    "pass the guest's address space",
    "too little to know",
)
WORDS = ["&a [*a]", "*a", "<<: *x", "!!int x", "\x00", "{", "]", '"\\ud800"', "012", "~", "- ", "\t", ": "]
LAUNCH = HostLaunch(
    *("x", "0", Path("/qemu"), "tcg", Path("/k"), Path("/i"), "", Path("/d"), 2222),
    *(Path("/c"), Path("/m"), Path("/b")),
)


def examples(number, name):
    """One random source per example; each example has DEADLINE_S."""
    for at in range(number * TIMES):
        with deadline(f"{name} {SEED}{at}"):
            yield Random(f"{name} {SEED}{at}")


@contextmanager
def deadline(name):
    def give_up(_signal, _frame):
        raise AssertionError(f"example {name}: not done after {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(document):
    """The topology, or None, and what is wrong with the document."""
    try:
        return check_document(copy.deepcopy(document), machine=any_machine()), []
    except BedFileError as error:
        assert error.problems
        assert len(str(error)) < MOST_TOLD_CHARACTERS
        return None, error.problems


def refusal(topology):
    """Why the kernel would not make a host's regions; those of devices that are plugged later come last."""
    for host in topology.hosts:
        kernel = Kernel(topology, host)
        late = {device.name for device in topology.devices if not device.plugged}
        for region in sorted(host.regions_by_address(), key=lambda region: not late.isdisjoint(region.devices)):
            try:
                kernel.create(region)
            except RefusedError as error:
                return f"{host.name}/{region.name}: {error}"
    return None


def test_linux_makes_the_regions_of_every_bed_that_the_rules_accept_and_of_no_other():
    accepted = refused = 0
    for random in examples(5000, "bed"):
        document = random_bed(random)
        topology, problems = judged(document)
        if topology is not None:
            assert refusal(topology) is None, document
            accepted += 1
        elif not any(word in problem for problem in problems for word in NOT_OF_LINUX):
            assert refusal(Topology.model_validate(document)), (problems, document)
            refused += 1
    assert min(accepted, refused) > 1000 * TIMES


def test_spoiled_beds_are_refused_or_rendered_and_made():
    kept = 0
    for random in examples(6000, "spoiled"):
        document = random_bed(random)
        for _ in range(random.choice([1, 1, 1, 2, 5])):
            spoil(random, document)
            if not document:
                break
        topology, _ = judged(document)
        if topology is not None:
            kept += 1
            assert refusal(topology) is None, document
            for host in topology.hosts:
                assert qemu_argv(topology, host, LAUNCH)
                assert picture_of(topology, host).host == host.name
            assert Topology.model_validate_json(topology.model_dump_json()) == topology
    assert kept > 50 * TIMES


def mutated(random, text):
    """A text with bytes changed, cut off, or with its lines moved and doubled."""
    match random.randrange(4):
        case 0:
            return text[: random.randrange(len(text))]
        case 1:
            lines = text.splitlines(keepends=True)
            lines.insert(random.randrange(len(lines)), random.choice(lines) * random.choice([1, 1, 50]))
            return "".join(lines)
        case 2:
            at = random.randrange(len(text))
            word = random.choice(
                ["&a [*a]", "*a", "<<: *x", "!!int x", "\x00", "{", "]", '"\\ud800"', "012", "~", "- ", "\t", ": "]
            )
            return text[:at] + word + text[at + random.choice([0, 1, 5]) :]
        case _:
            changed = list(text)
            for _ in range(random.randint(1, 6)):
                changed[random.randrange(len(changed))] = chr(random.choice([*range(128), 0x2028, 0xFEFF, 0x10FFFF]))
            return "".join(changed)


@pytest.mark.parametrize("kind", ["bed", "profile"])
def test_mutated_texts_end_in_an_error_of_ours_or_in_a_usable_file(kind):
    folder = STOCK_FOLDER if kind == "bed" else PROFILE_FOLDER
    texts = [path.read_text() for path in sorted(folder.glob("*.yaml"))]
    for random in examples(400, kind):
        text = mutated(random, random.choice(texts))
        try:
            assert parse(text, machine=any_machine()) if kind == "bed" else parse_profile(text, "p")
        except (BedFileError, InputError) as error:
            assert 0 < len(str(error)) < MOST_TOLD_CHARACTERS


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("devices take their ports in turn", "_under_target"),
        ("a device has four decoders, and so much memory", "_device"),
        ("what is plugged later lies above", "_plugged_later"),
    ],
)
def test_a_rule_that_is_missing_is_noticed(monkeypatch, rule, broken):
    from qemu_configs.rules import capacity, interleave

    monkeypatch.setattr(capacity if hasattr(capacity, broken) else interleave, broken, lambda *_: iter(()))
    beds = (judged(random_bed(random))[0] for random in examples(1500, "bed"))
    assert any(refusal(topology) for topology in beds if topology is not None), rule
