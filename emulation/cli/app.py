"""The command `cxlbed`: its verbs by name, each loaded when it is called, and our errors as exit statuses.

Knows each verb's name, module and first sentence; does no work, and loads nothing that only verbs need.
"""

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from emulation.errors import CxlbedError, MachineError
from emulation.version import version
from guest.errors import GuestError
from qemu_configs.errors import ConfigError
from sac_runtime.errors import SacError


@dataclass(frozen=True)
class Verb:
    """Where a verb is: `function` (or a group of verbs, a Typer) in `emulation.cli.<module>`. help: its first sentence;
    settings: of its context, as click takes them."""

    module: str
    function: str
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)


VERBS = {
    "check": Verb("check", "check", "Check bed files, against this machine's memory and NUMA nodes too."),
    "render": Verb("render", "render", "Print what a host of a bed is to libvirt, to QEMU, or to its guest."),
    "schema": Verb(
        "schema",
        "schema",
        "Print a JSON Schema: of bed files, profiles and hardware, for editors, or of what a verb writes with --json.",
    ),
    "doctor": Verb("doctor", "doctor", "Check what this machine can do, each trap with its fix."),
    "run": Verb(
        "run", "run", "Boot a bed, write KV through one host, fetch the top-k through another, verify every byte."
    ),
    "latency": Verb(
        "latency",
        "latency",
        "Fetch time by tier with its ratio to local DRAM: n random entries (as the SAC paper's Fig 5), or whole prefixes by "
        "concurrency (Fig 3), or the misses of a recorded top-k trace.",
    ),
    "serve": Verb(
        "serve",
        "serve",
        "Throughput, TTFT and TBT of SAC on a CXL pool, on local DRAM, with RDMA prefetch, and of HBM only: a calibrated "
        "model of the serving engine over the links of the timing profiles.",
    ),
    "calibrate": Verb(
        "calibrate",
        "calibrate",
        "Show each model beside the figures of SAC (arXiv 2606.19746) that it is held to: point by point, with the error of "
        "each.",
    ),
    "up": Verb("beds", "up", "Boot the hosts of a bed and make their CXL regions ready."),
    "status": Verb("beds", "status", "Show every bed of this user: accelerator, emulator, hosts, how to reach them."),
    "exec": Verb(
        "beds",
        "execute",
        "Run a command in a host; ends with the command's status.",
        {"ignore_unknown_options": True},
    ),
    "ssh": Verb("beds", "ssh", "Open a shell in a host."),
    "console": Verb("beds", "console", "Show what a host printed on its serial console."),
    "plug": Verb(
        "beds",
        "plug",
        "Put a device of a bed's file that is not plugged (`plugged: false`) into its port, and make the regions over it.",
    ),
    "unplug": Verb(
        "beds", "unplug", "Take a device out of a bed that is up: its guests end the regions over it first."
    ),
    "down": Verb("beds", "down", "End a bed, or all of them, and remove all that they left."),
    "soak": Verb("soak", "soak", "Hosts in one pool for long, under random faults; every byte is held to the truth."),
    "numa": Verb("numa", "numa", "Bind a pool to a remote NUMA node, prove it, measure it, compare with a profile."),
    "image": Verb("image", "image", "The guest image and the emulator: build, list, check, prune."),
}


class ListedVerb(TyperCommand):
    """A verb as the help lists it: its whole first sentence."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """The sentence; `limit` is click's, which would cut it."""
        return self.help or ""


class Verbs(TyperGroup):
    """The verbs of `VERBS`: listed by their first sentences, loaded one by one as they are called."""

    def __init__(self, **settings: Any) -> None:
        listed = {name: ListedVerb(name, help=verb.help, rich_markup_mode=None) for name, verb in VERBS.items()}
        super().__init__(**settings | {"commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The verb that `args` begin with, built from its module, and the words that are left for it."""
        name, _listed, rest = super().resolve_command(ctx, args)
        return name, command_of(name) if name else None, rest


class SpokenVerb(TyperCommand):
    """A verb that says of an unusable number what was given, not what the library that reads numbers says."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As TyperCommand. Raises BadParameter, a usage error."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            raise typer.BadParameter(_reason(error), ctx=error.ctx, param=error.param) from error


def _reason(error: typer.BadParameter) -> str:
    """What is wrong with an option's value. The cause lists errors where pydantic has read it."""
    list_errors = getattr(error.__cause__, "errors", None)
    if list_errors is None:
        return error.message
    first = list_errors()[0]
    kind = {"int": "a whole number, as in 16", "float": "a number, as in 0.5"}.get(first["type"].partition("_")[0])
    return f"{first['input']!r} is not {kind}" if kind else f"{first['input']!r}: {first['msg']}"


def command_of(name: str) -> Any:
    """The click command of a verb; its module is imported here. name: a key of `VERBS`."""
    verb = VERBS[name]
    found = getattr(import_module(f"emulation.cli.{verb.module}"), verb.function)
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=SpokenVerb, context_settings=dict(verb.settings))(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    cls=Verbs,
    name="cxlbed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cxlbed {version}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end.")
    ] = False,
) -> None:
    """Virtual hosts with CXL memory, what runs on them, and how long it takes. `cxlbed VERB --help` tells a verb's options."""


def main() -> None:
    """Run `cxlbed`; the one place that exits."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except (CxlbedError, GuestError, ConfigError, SacError) as error:
        print(f"cxlbed: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_status)
    except OSError as error:  # a full disk, a folder that is not ours: the machine's doing, named by its path
        print(f"cxlbed: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)  # noqa: T201
        sys.exit(MachineError.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    """Leave through every `finally` on the way, as Ctrl-C does."""
    sys.exit(128 + signal.SIGTERM)
