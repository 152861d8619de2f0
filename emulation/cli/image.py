"""`cxlbed image`: the guest image in this user's cache."""

from typing import Annotated

import typer

from emulation.cli.output import JsonOption, write_json
from emulation.cli.progress import progress
from emulation.cli.terminal import show
from emulation.machines.record import bed_folders
from guest.image import cache
from guest.image.recipe import STOCK

image = typer.Typer(
    help="The guest image: build, list, prune.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@image.command("build")
def build() -> None:
    """Build the guest image, unless the cache holds it."""
    with progress() as say:
        built = cache.ensure(say)
    typer.echo(f"{built.hash} {built.folder}")


@image.command("list")
def list_images(json: JsonOption = None) -> None:
    """List the images in the cache."""
    rows = [
        {"hash": held.hash, "folder": str(held.folder), "current": held.hash == STOCK.hash}
        for held in cache.list_images()
    ]
    write_json(json, {"images": rows})
    show(json, *(f"{row['hash']} {row['folder']}{' (current)' if row['current'] else ''}" for row in rows))


@image.command("prune")
def prune(
    everything: Annotated[bool, typer.Option("--all", help="The current one too, unless a bed runs from it.")] = False,
) -> None:
    """Remove images that no recipe here makes any more and no bed runs from, and what killed builds left."""
    in_use = {record.image_hash for folder in bed_folders() if (record := folder.read())}
    removed = cache.prune(keep=frozenset(in_use if everything else in_use | {STOCK.hash}))
    typer.echo(f"removed {len(removed)}: {', '.join(removed)}" if removed else "nothing to remove")
