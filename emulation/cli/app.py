"""Joins the verbs to one command and turns our errors into exit statuses. Knows verbs, does no work."""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from emulation.cli import bed_files as bedfile
from emulation.cli import beds, calibrate, latency, machine, numa, run, serve
from emulation.errors import CxlbedError, MachineError
from emulation.version import version
from guest.errors import GuestError
from qemu_configs.errors import ConfigError
from sac_runtime.errors import SacError

app = typer.Typer(name="cxlbed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(bedfile.check)
app.command()(bedfile.render)
app.command()(bedfile.schema)
app.command()(machine.doctor)
app.add_typer(machine.image_app, name="image")
app.command()(run.run)
app.command()(latency.latency)
app.command()(serve.serve)
app.command()(calibrate.calibrate)
app.command()(beds.up)
app.command()(beds.status)
app.command("exec", context_settings={"ignore_unknown_options": True})(beds.execute)
app.command()(beds.ssh)
app.command()(beds.console)
app.command()(beds.down)
app.command()(numa.numa)


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
    """What belongs to no verb."""


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
