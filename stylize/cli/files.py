"""The commands `stylize unpack` and `stylize pack`: shards to files in class folders, and back."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.summary import print_summary
from stylize.command_line import console
from stylize.runs.pack import pack_pairs
from stylize.runs.progress import images_progress
from stylize.runs.spec import ShardOptions
from stylize.shards.manifest import read_manifest
from stylize.shards.unpack import unpack_shards
from stylize.wording import counted

default = ShardOptions()


def unpack_command(
    directory: Annotated[Path, typer.Argument(help="Folder of shards.")],
    out: Annotated[Path, typer.Option(help="Folder to make, with original/ and stylized/ in it.")],
) -> None:
    """Write originals and copies as files in class folders; run the same command again to go on."""
    manifest = read_manifest(directory)
    with images_progress(console, "Unpacking", manifest.samples()) as report:
        unpack_shards(directory, out, report)
    pairs, total = manifest.samples("train"), manifest.samples()
    files = total + pairs * manifest.styles_per_image
    console.print(f"{out}: {counted(files, 'picture')} of {counted(total, 'sample')}")


def pack_command(
    originals: Annotated[str, typer.Argument(help="Folder or zip of class folders, maybe in train/, test/ and val/.")],
    copies: Annotated[list[Path], typer.Argument(help="Folders of copies: same paths, or NAME-stylized-STYLE.")],
    out: Annotated[Path, typer.Option(help="Folder of shards to make.")],
    size: Annotated[int | None, typer.Option(help="Scale and crop to N × N pixels; else the images' own size.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses order and held-out images.")] = default.seed,
    test_fraction: Annotated[
        float, typer.Option(help="Held-out fraction where the originals have no test split; 0 for no test split.")
    ] = default.test_fraction,
    codec: Annotated[str, typer.Option(help="jpg, png or webp.")] = default.codec,
    quality: Annotated[int, typer.Option(help="1 to 100.")] = default.quality,
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
) -> None:
    """Make shards of originals and stylized copies that exist as files, say those of stylize-datasets."""
    options = ShardOptions(
        data=originals, size=size, seed=seed, test_fraction=test_fraction, codec=codec, quality=quality
    )
    print_summary(out, pack_pairs(options, copies, out, max_failures))
