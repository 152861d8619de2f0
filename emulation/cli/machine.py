"""Verbs about this machine: doctor and image."""

from typing import Annotated

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress

image_app = typer.Typer(help="The guest image: build, list, prune.", no_args_is_help=True)


def doctor(json: JsonOption = None) -> None:
    """Check what this machine can do, each trap with its fix. Ends with 3 if the main job cannot run."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from emulation import doctor as checks

    findings = checks.examine()
    write_json(json, {"can_run": checks.can_run(findings), "findings": [asdict(finding) for finding in findings]})
    if str(json) != "-":
        table = Table("check", "verdict", "what was found", "what to do")
        colours = {"ok": "green", "note": "yellow", "fail": "red"}
        for finding in findings:
            verdict = f"[{colours[finding.verdict]}]{finding.verdict}"
            table.add_row(finding.check, verdict, escape(finding.detail), escape(finding.fix))
        Console().print(table)
    if not checks.can_run(findings):
        raise typer.Exit(3)


@image_app.command("build")
def image_build() -> None:
    """Build the guest image, unless the cache holds it."""
    from guest.image import cache as image

    with progress() as show:
        built = image.ensure(show)
    typer.echo(f"{built.hash} {built.folder}")


@image_app.command("list")
def image_list(json: JsonOption = None) -> None:
    """List the images in the cache."""
    from guest.image import cache as image
    from guest.image.recipe import STOCK

    current = STOCK.hash
    rows = [
        {"hash": held.hash, "folder": str(held.folder), "current": held.hash == current} for held in image.list_images()
    ]
    write_json(json, {"images": rows})
    if str(json) != "-":
        for row in rows:
            typer.echo(f"{row['hash']!s} {row['folder']}{' (current)' if row['current'] else ''}")


@image_app.command("prune")
def image_prune(
    everything: Annotated[bool, typer.Option("--all", help="The current one too, unless a bed runs from it.")] = False,
) -> None:
    """Remove images that no recipe here makes any more and no bed runs from, and what killed builds left."""
    from emulation.machines.record import bed_folders
    from guest.image import cache as image
    from guest.image.recipe import STOCK

    in_use = {record.image_hash for folder in bed_folders() if (record := folder.read())}
    removed = image.prune(keep=frozenset(in_use if everything else in_use | {STOCK.hash}))
    typer.echo(f"removed {len(removed)}: {', '.join(removed)}" if removed else "nothing to remove")
