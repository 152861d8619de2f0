"""Joins the verbs to one command and turns our errors into exit statuses. Knows verbs, does no work."""

import sys

import typer

from emulation.errors import CxlbedError
from guest.errors import GuestError
from qemu_configs.errors import BedFileError
from sac_runtime.errors import SacError
from sac_runtime.label import LabelMixError

app = typer.Typer(name="cxlbed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run `cxlbed`; the one place that exits."""
    try:
        app()
    except (CxlbedError, GuestError, BedFileError, SacError, LabelMixError) as error:
        print(f"cxlbed: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(getattr(error, "exit_status", 2))
    except KeyboardInterrupt:
        sys.exit(130)
