"""Shards in object stores: the command `stylize upload`, and `stylize verify` of a URL."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from stylize.cli.summary import print_summary
from stylize.command_line import console
from stylize.shards.manifest import inspect_manifest, read_manifest
from stylize.shards.remote import is_url
from stylize.shards.upload import upload_shards
from stylize.shards.verify import verify_shards
from stylize.shards.verify_url import verify_url
from stylize.wording import counted


def upload_command(
    directory: Annotated[Path, typer.Argument(help="A finished folder.")],
    url: Annotated[str, typer.Argument(help="s3://bucket/folder to upload it to.")],
) -> None:
    """Upload a finished folder to S3, the manifest last; run the same command again to go on."""
    total = sum(shard.bytes for shard in read_manifest(directory).shards)
    columns = TextColumn("Uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        manifest = upload_shards(directory, url, lambda size: progress.advance(task, size))
    print_summary(url, manifest)


def verify_command(directory: Annotated[str, typer.Argument(help="Folder of shards, or its URL.")]) -> None:
    """Read a shard folder again and name every defect; exit code 1 if there is one."""
    if is_url(directory):
        defects, manifest = verify_url(directory)
    else:
        defects, manifest = verify_shards(Path(directory)), inspect_manifest(Path(directory))[0]
    for defect in defects:
        console.print(defect, highlight=False)
    if defects:
        console.print(f"{directory}: {counted(len(defects), 'defect')}", style="bold red")
        raise typer.Exit(1)
    print_summary(directory, manifest, "; no defects")
