"""`stylize upload`."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.verify_info import print_summary
from stylize.console import console
from stylize.progress import BYTES, counted_progress
from stylize.shards.manifest import FAILURES_NAME, read_manifest


def upload(
    directory: Annotated[Path, typer.Argument(help="A finished folder.")],
    url: Annotated[str, typer.Argument(help="s3://bucket/folder to upload it to.")],
) -> None:
    """Upload a finished folder to S3, the manifest last; run the same command again to go on."""
    from stylize.shards.side_files import side_names
    from stylize.shards.upload import upload_shards

    manifest = read_manifest(directory)
    names = [*(shard.name for shard in manifest.shards), FAILURES_NAME, *side_names(manifest)]
    total = sum((directory / name).stat().st_size for name in names if (directory / name).is_file())
    with counted_progress(console, "Uploading", total, BYTES) as report:
        manifest = upload_shards(directory, url, report)
    print_summary(url, manifest)
