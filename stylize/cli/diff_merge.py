"""`stylize diff`, `merge` and `rederive`: folders of shards compared, joined, and held against the networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylize.cli.verify_info import print_summary
from stylize.console import console, counted
from stylize.interruption import imports_torch
from stylize.jobs.spec import Decoder, Encoder
from stylize.progress import counted_progress
from stylize.shards.manifest import read_manifest

if TYPE_CHECKING:
    from stylize.shards.diff import SplitDiff

NAMED = 10
STYLE_HELP = "The style's picture, where it is not built in; repeat for more, in the manifest's order."


def diff(first: Path, second: Path) -> None:
    """Say what two folders of shards differ in; exit code 1 if they do."""
    from stylize.shards.diff import diff_samples, diff_specs

    differing = False
    for name, one, other in diff_specs(read_manifest(first).spec, read_manifest(second).spec):
        differing = True
        console.print(f"spec {name}: {one} | {other}", highlight=False)
    for split in diff_samples(first, second):
        differing |= not split.is_empty
        _print_split(split, first, second)
    if differing:
        raise typer.Exit(1)
    console.print(f"{first} and {second}: the same specification and samples")


def _print_split(split: "SplitDiff", first: Path, second: Path) -> None:
    for folder, keys in ((first, split.only_first), (second, split.only_second)):
        if keys:
            console.print(f"{split.split}: {counted(len(keys), 'sample')} only in {folder}, from {keys[0]} on")
    parts = ", ".join(f"{part} of {number}" for part, number in split.parts().items())
    console.print(f"{split.split}: {len(split.differing)} of {split.common} common samples differ {parts}".rstrip())
    for key, found in list(split.differing.items())[:NAMED]:
        console.print(f"{split.split} {key}: {', '.join(found)}", highlight=False)


@imports_torch
def merge(first: Path, second: Path, out: Annotated[Path, typer.Option(help="Folder of shards to make.")]) -> None:
    """Join two folders of shards: the same images with the copies of both, or the images of both."""
    from stylize.jobs.pairs import merge_shards

    total = sum(read_manifest(folder).samples() for folder in (first, second))
    with counted_progress(console, "Merging", total) as report:
        manifest = merge_shards(first, second, out, report)
    print_summary(out, manifest)


@imports_torch
def rederive(
    directory: Path,
    key: Annotated[str, typer.Argument(help="Key of a training sample, as 00000012.")],
    style: Annotated[list[str] | None, typer.Option(help=STYLE_HELP)] = None,
    encoder: Encoder = None,
    decoder: Decoder = None,
) -> None:
    """Stylize one original again and say how far the stored copies are from that."""
    from stylize.jobs.pairs import rederive_pair

    for number, copy in enumerate(rederive_pair(directory, key, style or (), encoder, decoder)):
        apart = f"differs by {copy.largest} of 255 at most, {copy.mean:.3f} on average"
        console.print(f"{key}, copy {number}, {copy.style}: {apart}", highlight=False)
