"""The commands `stylize verify`, `index` and `info`: what finished folders of shards hold."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.summary import counts_line, manifest_table, print_summary, warning_lines
from stylize.command_line import console, print_notice
from stylize.shards.manifest import inspect_manifest, read_manifest
from stylize.shards.remote import is_url
from stylize.shards.side_files import write_side_files
from stylize.shards.suspicion import folder_suspicions
from stylize.shards.verify import quick_defects, verify_shards
from stylize.shards.verify_url import verify_url
from stylize.wording import counted


def verify_command(
    directory: Annotated[str, typer.Argument(help="Folder of shards, or its URL.")],
    quick: Annotated[bool, typer.Option("--quick", help="Manifest, names and sizes of a folder only.")] = False,
) -> None:
    """Read a shard folder again and name every defect; exit code 1 if there is one."""
    if is_url(directory):
        defects, manifest = verify_url(directory)
    else:
        defects = quick_defects(Path(directory)) if quick else verify_shards(Path(directory))
        manifest = inspect_manifest(Path(directory))[0]
    for defect in defects:
        console.print(defect, highlight=False)
    if defects:
        console.print(f"{directory}: {counted(len(defects), 'defect')}", style="bold red")
        raise typer.Exit(1)
    print_summary(directory, manifest, "; no defects in manifest and sizes" if quick else "; no defects")
    if not quick and not is_url(directory):
        for suspicion in folder_suspicions(Path(directory), manifest):
            print_notice(f"Warning: {suspicion}")


def index_command(directory: Path) -> None:
    """Write a folder's indices, checksums and data card again, or for the first time; shards and manifest stay."""
    manifest = read_manifest(directory)
    write_side_files(directory, manifest)
    console.print(f"{directory}: indices, checksums and data card of {counted(len(manifest.shards), 'shard')}")


def info_command(directory: Path) -> None:
    """Print a shard folder's manifest for people."""
    manifest = read_manifest(directory)
    console.print(manifest_table(manifest, title=f"{directory}: {counts_line(manifest)}"))
    for line in warning_lines(manifest):
        print_notice(line)
