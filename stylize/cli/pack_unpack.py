"""`stylize pack`, `unpack` and `images`: shards of files, files of shards, and a data set's images as one zip."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stylize.cli.verify_info import ignored_text, print_summary
from stylize.console import console, counted
from stylize.interruption import imports_torch
from stylize.jobs.spec import DATA_HELP, ShardOptions
from stylize.progress import counted_progress
from stylize.settings import options_of
from stylize.shards.manifest import read_manifest


@options_of(ShardOptions, "size", "seed", "test_fraction", "codec", "quality")
@imports_torch
def pack(
    originals: Annotated[str, typer.Argument(help="Folder or zip of class folders, maybe in train/, test/ and val/.")],
    copies: Annotated[list[Path], typer.Argument(help="Folders of copies: same paths, or NAME-stylized-STYLE.")],
    out: Annotated[Path, typer.Option(help="Folder of shards to make.")],
    given: dict[str, Any],
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
) -> None:
    """Make shards of originals and stylized copies that exist as files, say those of stylize-datasets."""
    from stylize.jobs.pairs import pack_pairs

    print_summary(out, pack_pairs(ShardOptions(data=originals, **given), copies, out, max_failures))


def unpack(
    directory: Annotated[str, typer.Argument(help="Folder of shards, or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder to make, with original/ and stylized/ in it.")],
) -> None:
    """Write originals and copies as files in class folders; run the same command again to go on."""
    from stylize.shards.remote import shard_files
    from stylize.shards.unpack import unpack_shards

    with shard_files(directory) as files:
        manifest = read_manifest(files.folder)
    with counted_progress(console, "Unpacking", manifest.samples()) as report:
        unpack_shards(directory, out, report)
    pairs, total = manifest.samples("train"), manifest.samples()
    pictures = total + pairs * manifest.styles_per_image
    console.print(f"{out}: {counted(pictures, 'picture')} of {counted(total, 'sample')}")


@options_of(ShardOptions, "seed", "test_fraction")
def images(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Zip to write.")] = Path("data/images.zip"),
    data: Annotated[str, typer.Option("--data", "--source", help=DATA_HELP)] = ShardOptions.data,
) -> None:
    """Write a data set's untouched images as one zip of class folders."""
    from stylize.sources.source import export_images, open_source

    options = ShardOptions(data=data, **given)
    source = open_source(data, seed=options.seed, test_fraction=options.test_fraction)
    count = export_images(source, out)
    notes = "".join(f"; {note}" for note in source.notes)
    console.print(f"{out}: {counted(count, 'image')}{ignored_text(source.ignored)}{notes}")
