"""`stylize verify`, `info`, `index`, `unpack`, `pack`, `diff`, `merge`, `rederive` and `upload`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from stylize.cli.shards import counts_line, manifest_table, print_summary, warning_lines
from stylize.cli.weights import ENCODER_HELP
from stylize.console import console, counted, print_notice
from stylize.jobs.pairs import merge_shards, pack_pairs, rederive_pair
from stylize.jobs.run import images_progress
from stylize.jobs.spec import ShardOptions
from stylize.shards.manifest import inspect_manifest, read_manifest
from stylize.shards.remote import is_url, upload_shards
from stylize.shards.sanity import folder_warnings
from stylize.shards.side_files import write_side_files
from stylize.shards.tools import SplitDiff, diff_samples, diff_specs, unpack_shards
from stylize.shards.verify import quick_defects, verify_shards, verify_url


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
        for sentence in folder_warnings(Path(directory), manifest):
            print_notice(f"Warning: {sentence}")


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


NAMED = 10
STYLE_HELP = "The style's picture, where it is not built in; repeat for more, in the manifest's order."


def diff_command(first: Path, second: Path) -> None:
    """Say what two folders of shards differ in; exit code 1 if they do."""
    differing = False
    for name, one, other in diff_specs(read_manifest(first), read_manifest(second)):
        differing = True
        console.print(f"spec {name}: {one} | {other}", highlight=False)
    for split in diff_samples(first, second):
        differing |= not split.is_empty
        _print_split(split, first, second)
    if differing:
        raise typer.Exit(1)
    console.print(f"{first} and {second}: the same specification and samples")


def _print_split(split: SplitDiff, first: Path, second: Path) -> None:
    for folder, keys in ((first, split.only_first), (second, split.only_second)):
        if keys:
            console.print(f"{split.split}: {counted(len(keys), 'sample')} only in {folder}, from {keys[0]} on")
    parts = ", ".join(f"{part} of {number}" for part, number in split.parts().items())
    console.print(f"{split.split}: {len(split.differing)} of {split.common} common samples differ {parts}".rstrip())
    for key, found in list(split.differing.items())[:NAMED]:
        console.print(f"{split.split} {key}: {', '.join(found)}", highlight=False)


def merge_command(
    first: Path, second: Path, out: Annotated[Path, typer.Option(help="Folder of shards to make.")]
) -> None:
    """Join two folders of shards: the same images with the copies of both, or the images of both."""
    total = sum(read_manifest(folder).samples() for folder in (first, second))
    with images_progress(console, "Merging", total) as report:
        manifest = merge_shards(first, second, out, report)
    print_summary(out, manifest)


def rederive_command(
    directory: Path,
    key: Annotated[str, typer.Argument(help="Key of a training sample, as 00000012.")],
    style: Annotated[list[str] | None, typer.Option(help=STYLE_HELP)] = None,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
    decoder: Annotated[Path | None, typer.Option(help="Decoder file of the encoder; else the shipped one.")] = None,
) -> None:
    """Stylize one original again and say how far the stored copies are from that."""
    for number, copy in enumerate(rederive_pair(directory, key, style or (), encoder, decoder)):
        apart = f"differs by {copy.largest} of 255 at most, {copy.mean:.3f} on average"
        console.print(f"{key}, copy {number}, {copy.style}: {apart}", highlight=False)


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
