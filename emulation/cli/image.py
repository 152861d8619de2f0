"""`cxlbed image`: the guest image and the emulator in this user's cache."""

from pathlib import Path
from typing import Annotated

import typer

from emulation.cli.app import ListedVerb
from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.cli.terminal import show
from emulation.machines.emulator import choice, own
from emulation.machines.emulator.recipe import OWN
from emulation.machines.record import bed_folders
from guest.image import cache
from guest.image.recipe import STOCK

image = typer.Typer(
    help="The guest image and the emulator: build, list, check, prune.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@image.command("build", cls=ListedVerb)
def build() -> None:
    """Build the guest image and the emulator that beds need here, unless the cache holds them."""
    with progress() as say:
        built = cache.ensure(say)
        emulator = choice.choose(None, True, say)
    typer.echo(f"{built.hash} {built.folder}")
    typer.echo(f"{emulator} {emulator.path}")


@image.command("list", cls=ListedVerb)
def list_images(json: JsonOption = None) -> None:
    """List the images and the emulators in the cache."""
    rows = {
        "images": [_row(held.folder, STOCK.hash) for held in cache.list_images()],
        "emulators": [_row(held.folder, OWN.hash) for held in own.list_emulators()],
    }
    write_json(json, rows)
    lines = [row for kind in rows.values() for row in kind]
    show(json, *(f"{row['hash']} {row['folder']}{' (current)' if row['current'] else ''}" for row in lines))


@image.command("check", cls=ListedVerb)
def check() -> None:
    """Ask the mirror whether it still holds the emulator that the recipe names. Ends with 3 if it does not."""
    offered = own.offered_version()
    if offered != OWN.version:
        raise own.StaleRecipeError(own.moved_on(OWN, offered))
    typer.echo(f"emulator: the recipe holds: {OWN.suites[1]} has {OWN.package} {offered}")


@image.command("prune", cls=ListedVerb)
def prune(
    everything: Annotated[
        bool, typer.Option("--all", help="The current ones too, unless a bed runs from them.")
    ] = False,
) -> None:
    """Remove images and emulators that no recipe here makes any more and no bed runs from, and what killed builds left."""
    records = [record for folder in bed_folders() if (record := folder.read())]
    keep = {record.image_hash for record in records} | {Path(record.emulator).parent.name for record in records}
    if not everything:
        keep |= {STOCK.hash, OWN.hash}
    removed = [*cache.prune(frozenset(keep)), *own.prune(frozenset(keep))]
    typer.echo(f"removed {len(removed)}: {', '.join(removed)}" if removed else "nothing to remove")


def _row(folder: Path, current: str) -> dict[str, str | bool]:
    return {"hash": folder.name, "folder": str(folder), "current": folder.name == current}
