"""The command's own part: its table of verbs, what help and version load, how a verb is found."""

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from emulation.cli.app import VERBS, app, command_of
from emulation.version import version
from tests.support.command import cxlbed

HEAVY = {"jinja2", "libvirt", "matplotlib", "numpy", "psutil", "pydantic", "rich", "yaml"}
PROGRAM = """
import sys
from emulation.cli import main
sys.argv = ["cxlbed", *{words}]
try:
    main()
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""


def loaded_by(*words):
    """Names of all modules that `cxlbed WORDS` loads."""
    program = PROGRAM.format(words=list(words))
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr.split())


def first_sentence(doc):
    return " ".join(doc.split()).partition(". ")[0].removesuffix(".") + "."


@pytest.mark.parametrize("name", VERBS)
def test_the_list_of_verbs_shows_the_first_sentence_of_each(name):
    command = command_of(name)
    assert command.name == name
    assert VERBS[name].help == first_sentence(command.help)


def test_a_verb_of_the_table_is_one_of_its_module():
    for verb in VERBS.values():
        module = import_module(f"emulation.cli.{verb.module}")
        function = getattr(module, verb.function)
        assert isinstance(function, typer.Typer) or function.__module__ == module.__name__


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_no_verb_and_nothing_heavy(option):
    loaded = loaded_by(option)
    assert "typer" in loaded
    assert loaded & HEAVY == set()
    assert {f"emulation.cli.{verb.module}" for verb in VERBS.values()} & loaded == set()


def test_a_verb_loads_none_of_the_others():
    others = {f"emulation.cli.{verb.module}" for verb in VERBS.values()} - {"emulation.cli.check"}
    assert loaded_by("check", "direct") & (others | HEAVY - {"pydantic", "yaml"}) == set()


def test_the_version_is_told_by_option_and_by_module():
    ended = subprocess.run([sys.executable, "-m", "emulation", "--version"], capture_output=True, text=True)
    assert ended.stdout == CliRunner().invoke(app, ["--version"]).output == f"cxlbed {version}\n"


def test_help_lists_every_verb_with_its_whole_sentence():
    listed = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "--version" in listed
    for name, verb in VERBS.items():
        assert f"{name} {verb.help}" in listed


def test_a_group_lists_its_verbs_with_whole_sentences_too():
    listed = " ".join(CliRunner().invoke(app, ["image", "--help"]).output.split())
    commands = command_of("image").commands
    assert set(commands) >= {"build", "list", "prune"}
    for name, command in commands.items():
        assert f"{name} {' '.join(command.help.split())}" in listed


def test_a_mistyped_verb_is_refused_with_the_ones_like_it():
    ended = cxlbed("checks", "direct")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "'checks'" in ended.stderr
    assert "'check'" in ended.stderr


def test_words_after_the_separator_are_the_commands_own():
    ended = cxlbed("exec", "no-such-bed", "--", "ls", "--all")
    assert ended.returncode == 2
    assert "bed 'no-such-bed': is not up" in ended.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["run", "--runtime="],
            "run: runtime='' names no runtime (give sac, a module as in package.module:name, or an entry point)",
        ),
        (["latency", "--bare", "hardware"], "latency: 'hardware' times a store as it is; give --store too"),
        (["run", "--seed=-1"], "job: seed=-1 must be at least 0"),
        (["run", "--json", "/"], "--json /: is a folder; name a file, or '-' for standard output"),
        (["up", "direct", "--ready-deadline=-1"], "bed: ready_deadline_s=-1.0 must be a number of seconds above 0"),
        (["up", "direct", "--ready-deadline=nan"], "bed: ready_deadline_s=nan must be a number of seconds above 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_boots(words, problem):
    ended = cxlbed(*words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"cxlbed: {problem}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--seed", "x"], "'--seed': 'x' is not a whole number"),
        (["soak", "--hosts", "1.5"], "'--hosts': '1.5' is not a whole number"),
        (["serve", "--burstiness", "much"], "'--burstiness': 'much' is not a number"),
    ],
)
def test_an_option_that_is_no_number_is_told_with_what_was_given(arguments, words):
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 2
    assert words in " ".join(ended.output.split())
    assert "Input should" not in ended.output
