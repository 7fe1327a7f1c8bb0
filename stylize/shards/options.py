"""Options of commands that read shards, in a folder or behind a URL."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from stylize.command_line import console
from stylize.shards.cache import local_shards
from stylize.shards.manifest import ShardEntry

Cache = Annotated[Path, typer.Option(help="Where shards from a URL are kept.")]
CacheGigabytes = Annotated[float, typer.Option(help="Size of that; what was not used for longest goes.")]


def opened_shards(shards: str, cache: Path, gigabytes: float) -> AbstractContextManager[Path]:
    """Lend a folder of shards as `local_shards` does, and say what is downloaded."""
    return local_shards(shards, cache, gigabytes, _say_downloaded)


def _say_downloaded(shard: ShardEntry) -> None:
    console.print(f"{shard.name}: downloaded, {shard.bytes / 1e6:.1f} MB, SHA-256 as recorded")
