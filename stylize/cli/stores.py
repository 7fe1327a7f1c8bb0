"""Shards in object stores: the command `stylize upload`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from stylize.cli.summary import print_summary
from stylize.command_line import console
from stylize.shards.manifest import read_manifest
from stylize.shards.upload import upload_shards


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
