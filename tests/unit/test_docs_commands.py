"""Every command that README and docs show: it is run here, by test_docs.py or in the VM job, and what they show of it comes out.

Commands that name a placeholder, and bare verbs, are held to the options that the verbs have. Times vary and are not shown; counts
are compared digit by digit."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emulation.cli.app import VERBS, app
from emulation.conformance.truth import Context, JobShape
from sac_runtime.fetch.hot_buffer import HotBuffer
from sac_runtime.rows.layout import DEEPSEEK_LAYERS, KvLayout
from tests.vm.docs_commands import IN_VM, README_FLIP

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
SHOWN = sorted(
    {
        " ".join((in_block or in_text).partition("#")[0].split())
        for text in PAGES.values()
        for in_block, in_text in re.findall(r"^(?:\$ |    )(cxlbed [^\n]+)$|`(cxlbed [^`]+)`", text, flags=re.MULTILINE)
    }
)
RUN_BY_TEST_DOCS = {
    " ".join(command.partition("#")[0].split())
    for text in PAGES.values()
    for command in re.findall(r"^\$ (cxlbed [^\n]+)$", text, flags=re.MULTILINE)
}
ONE_NODE = {
    "cxlbed numa",
    "cxlbed numa --local 0 --remote 1",
}  # and with files and profiles; they end with 3 on one node
PLACEHOLDERS = re.compile(r"\b([A-Z]{3,}|package\.module)\b")
ENDS_ALL_BEDS = {
    "cxlbed down --all"
}  # those of whoever runs the tests too: in the VM job, which has a state folder of its own


RUN_HERE = {"cxlbed image list": "", "cxlbed calibrate --residuals": ""} | {
    command: "properties" for command in SHOWN if command.startswith("cxlbed schema ")
}


def is_bare(command):
    return len(command.split()) == 2


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_that_is_shown_is_run_somewhere(command):
    assert (
        is_bare(command)
        or PLACEHOLDERS.search(command)
        or command in RUN_BY_TEST_DOCS | ONE_NODE | IN_VM.keys() | ENDS_ALL_BEDS
        or command.startswith("cxlbed numa --local 0 --remote 1 ")
        or "--device cuda" in command  # needs a GPU; its options are looked at below
        or command in RUN_HERE | RUN_SMALLER
    ), command


@cache
def help_of(verb):
    return CliRunner().invoke(app, [verb, "--help"]).output


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_that_is_shown_has_a_verb_and_options_that_there_are(command):
    verb, *words = command.split()[1:]
    assert verb in {*VERBS, "--version", "image"}
    for option in re.findall(r"--[a-z][\w-]*", " ".join(words).partition(" -- ")[0]):
        assert option in help_of(verb), option


RUN_SMALLER = {  # by a test that gives it less to compare, or less time
    "cxlbed serve --compare": "emulation/cli/test_serve.py",
    "cxlbed soak --hosts 2 --seconds 1260 --seed 1": "emulation/faults/test_soak.py",
}


def run(command, timeout_s=300):
    return subprocess.run(
        [sys.executable, "-m", "emulation", *command.split()[1:]], capture_output=True, text=True, timeout=timeout_s, check=False
    )  # fmt: skip


@pytest.mark.parametrize("command", [command for command in RUN_HERE if command in SHOWN])
def test_a_command_of_the_text_runs_as_it_stands(command):
    ended = run(command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert RUN_HERE[command] in ended.stdout


def test_numa_measures_or_ends_with_3_and_says_why():
    ended = run("cxlbed numa --size 64M")
    nodes = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    assert (ended.returncode == 0) if len(nodes) > 1 else (ended.returncode == 3), ended.stderr
    assert len(nodes) > 1 or "node" in ended.stderr


def test_what_is_run_smaller_is_run():
    for command, file in RUN_SMALLER.items():
        assert command.split()[-1] in (ROOT / "tests" / "unit" / file).read_text()


RUN = JobShape(num_layers=DEEPSEEK_LAYERS)  # as test_run.py holds the verb's defaults to


@pytest.fixture(scope="module")
def contexts():
    """Those of `cxlbed run` as it stands, one per memory of its bed."""
    return [Context(RUN, number) for number in range(2)]


def test_the_readmes_table_is_what_a_run_counts(contexts):
    shape, layout = RUN, KvLayout.fp8()
    entries = shape.num_steps * shape.num_layers * shape.top_k
    for number, context in enumerate(contexts):
        buffers = [HotBuffer(shape.hot_buffer, shape.top_k) for _ in range(shape.num_layers)]
        rows = sum(
            buffer.plan(step.tokens(layer), shape.context_tokens + step.index + 1).misses
            for step in context.topk
            for layer, buffer in enumerate(buffers)
        )
        (shown,) = re.findall(rf"^    r{number} +(.*)$", PAGES["README.md"], flags=re.MULTILINE)
        for count in (rows, rows * layout.row_bytes, rows * layout.lines_per_row, entries):
            assert f" {count:,} " in shown, count


def test_the_readmes_flip_names_the_row_that_is_flipped():
    *_, num_layers, _, layer = README_FLIP.split()
    shape = JobShape(num_layers=int(num_layers))
    row = int(Context(shape, 0).topk[0].tokens(int(layer))[0])
    assert f"`{README_FLIP}` says `step 0, layer {layer}, row {row}: ...`" in " ".join(PAGES["README.md"].split())
