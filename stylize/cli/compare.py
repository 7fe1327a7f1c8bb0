"""The commands `stylize diff`, `merge` and `rederive`: what shards have in common, joined, and made again."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.summary import print_summary
from stylize.cli.weights import ENCODER_HELP
from stylize.command_line import console
from stylize.runs.merge import merge_shards
from stylize.runs.progress import images_progress
from stylize.runs.rederive import rederive_pair
from stylize.shards.diff import SplitDiff, diff_samples, diff_specs
from stylize.shards.manifest import read_manifest
from stylize.wording import counted

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
