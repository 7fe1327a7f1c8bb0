"""Commands on folders of shards: verify, info, index, diff, merge, rederive, pack, unpack, images and upload."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from stylize.console import BYTES, InputError, console, counted, counted_progress, print_notice
from stylize.console.settings import options_of
from stylize.interruption import imports_torch
from stylize.jobs.spec import DATA_HELP, Decoder, Encoder, ShardOptions
from stylize.shards.diff import spec_text
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, inspect_manifest, read_manifest

NO_LICENCE = "The data card names no licence: give that of the source, `stylize index DIR --licence CC-BY-4.0`."
NAMED_FLAGS = 5
NAMED = 10  # samples that differ
Folder = Annotated[str, typer.Argument(help="Folder of shards, or its URL.")]


def verify(
    directory: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Check only the manifest, names and sizes.")] = False,
) -> None:
    """Read a shard folder again and name every defect; exit code 1 if there is one."""
    from stylize.shards.remote import is_url, shard_files
    from stylize.shards.verify import folder_warnings, quick_defects, verify_shards

    if quick and is_url(directory):
        raise InputError("--quick looks at a folder: leave it out for a URL.")
    defects = quick_defects(Path(directory)) if quick else verify_shards(directory)
    with shard_files(directory) as files:
        manifest = inspect_manifest(files.folder)[0]
    for defect in defects:
        console.print(defect, highlight=False)
    if defects:
        console.print(f"{directory}: {counted(len(defects), 'defect')}", style="bold red")
        raise typer.Exit(1)
    print_summary(directory, manifest, "; no defects in manifest and sizes" if quick else "; no defects")
    if not quick and not is_url(directory):
        for sentence in folder_warnings(Path(directory), manifest):
            print_notice(f"Warning: {sentence}")


def info(directory: Folder) -> None:
    """Print a shard folder's manifest for people."""
    from stylize.shards.remote import shard_files

    with shard_files(directory) as files:
        manifest = read_manifest(files.folder)
    print_summary(directory, manifest)
    width = max(map(len, manifest.spec), default=0)
    for name, value in manifest.spec.items():
        console.print(f"  {name:<{width}}  {spec_text(value)}", highlight=False)


def index(
    directory: Path,
    licence: Annotated[str, typer.Option(help="Licence of the source's images, as SPDX names it: CC-BY-4.0.")] = "",
    title: Annotated[str, typer.Option(help="What the set is called.")] = "",
    source_url: Annotated[str, typer.Option(help="Where the source's images come from.")] = "",
    citation: Annotated[str, typer.Option(help="How the source is cited, as BibTeX or text, or a file of it.")] = "",
    url: Annotated[str, typer.Option(help="URL at which the folder will be, https://….")] = "",
) -> None:
    """Write a folder's indices, checksums and data card again, or for the first time; shards and manifest stay.

    A data card that is there is replaced only where one of these options is given.
    """
    from stylize.shards.card import NO_FACTS, read_facts
    from stylize.shards.index import write_side_files

    manifest = read_manifest(directory)
    if os.path.isfile(citation):  # noqa: PTH113 - a citation may be too long for a path
        citation = Path(citation).read_text(encoding="utf-8", errors="replace").strip()
    options = {"licence": licence, "title": title, "source_url": source_url, "citation": citation, "url": url}
    given = {name: value for name, value in options.items() if value}
    facts = replace(read_facts(directory), **given, published=date.today().isoformat()) if given else NO_FACTS
    write_side_files(directory, manifest, facts)
    console.print(f"{directory}: indices, checksums and data card of {counted(len(manifest.shards), 'shard')}")
    if not read_facts(directory).licence:
        print_notice(NO_LICENCE)


def print_summary(directory: Path | str, manifest: Manifest, remark: str = "") -> None:
    """Print what a folder holds, and what looks wrong in it."""
    console.print(f"{directory}: {counts_line(manifest)}{remark}")
    for line in warning_lines(manifest):
        print_notice(line)


def counts_line(manifest: Manifest) -> str:
    """Return how many pairs, test images and shards there are, their size, and how many images failed."""
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    train, val, test = (manifest.samples(split) for split in ("train", "val", "test"))
    validation = f", {counted(val, 'validation image')}" if val else ""
    counts = f"{counted(train, 'training pair')}{validation} and {counted(test, 'test image')}"
    shards = counted(len(manifest.shards), "shard")
    return f"{counts} in {shards}, {megabytes:.1f} MB{ignored_text(manifest.ignored)}{failed_text(manifest)}"


def failed_text(manifest: Manifest) -> str:
    """Return how many images failed; nothing for none."""
    return f"; {counted(manifest.failures, 'image')} failed, see {FAILURES_NAME}" if manifest.failures else ""


def ignored_text(ignored: Mapping[str, int]) -> str:
    """Return how many files were ignored, by rule; nothing for none."""
    if not ignored:
        return ""
    rules = ", ".join(f"{count} {rule}" for rule, count in sorted(ignored.items(), key=itemgetter(1), reverse=True))
    files = counted(sum(ignored.values()), "file that is no picture", "files that are no pictures")
    return f"; {files} ignored ({rules})"


def warning_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the first flagged samples, and how many there are."""
    for flag in manifest.flagged[:NAMED_FLAGS]:
        yield f"Warning: {flag.split} {flag.key}: {flag.reason}"
    if len(manifest.flagged) > NAMED_FLAGS:
        yield f"Warning: {len(manifest.flagged)} samples look wrong, all of them in {MANIFEST_NAME} under `flagged`"


STYLE_HELP = "The style's picture, where it is not built in; repeat for more, in the manifest's order."


def diff(first: Path, second: Path) -> None:
    """Say what two folders of shards differ in; exit code 1 if they do."""
    from stylize.shards.diff import diff_samples, diff_specs

    specs = list(diff_specs(read_manifest(first).spec, read_manifest(second).spec))
    for name, one, other in specs:
        console.print(f"spec {name}: {one} | {other}", highlight=False)
    differing = bool(specs)
    for split in diff_samples(first, second):
        differing |= not split.is_empty
        for folder, keys in ((first, split.only_first), (second, split.only_second)):
            if keys:
                console.print(f"{split.split}: {counted(len(keys), 'sample')} only in {folder}, from {keys[0]} on")
        parts = ", ".join(f"{part} of {number}" for part, number in split.parts().items())
        console.print(f"{split.split}: {len(split.differing)} of {split.common} common samples differ {parts}".rstrip())
        for key, found in list(split.differing.items())[:NAMED]:
            console.print(f"{split.split} {key}: {', '.join(found)}", highlight=False)
    if differing:
        raise typer.Exit(1)
    console.print(f"{first} and {second}: the same specification and samples")


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
    stylizer: Annotated[str | None, typer.Option(help="Your own code that made the shards, to run it again.")] = None,
) -> None:
    """Stylize one original again and say how far the stored copies are from that."""
    from stylize.jobs.pairs import rederive_pair

    for number, copy in enumerate(rederive_pair(directory, key, style or (), encoder, decoder, stylizer)):
        apart = f"differs by {copy.largest} of 255 at most, {copy.mean:.3f} on average"
        console.print(f"{key}, copy {number}, {copy.style}: {apart}", highlight=False)


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
    directory: Folder, out: Annotated[Path, typer.Option(help="Folder to make, with original/ and stylized/ in it.")]
) -> None:
    """Write originals and copies as files in class folders; run the same command again to go on."""
    from stylize.shards.export import export_shards
    from stylize.shards.remote import shard_files

    with shard_files(directory) as files:
        manifest = read_manifest(files.folder)
    with counted_progress(console, "Unpacking", manifest.samples()) as report:
        export_shards(directory, out, "folder", report)
    pairs, total = manifest.samples("train"), manifest.samples()
    pictures = total + pairs * manifest.styles_per_image
    console.print(f"{out}: {counted(pictures, 'picture')} of {counted(total, 'sample')}")


def export(
    directory: Folder,
    to: Annotated[str, typer.Option(help="parquet (Hugging Face, LitData), mds (MosaicML Streaming) or folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
) -> None:
    """Write pairs in another form, with the same bytes; run the same command again to go on."""
    from stylize.shards.export import export_shards
    from stylize.shards.remote import shard_files

    with shard_files(directory) as files:
        total = read_manifest(files.folder).samples()
    with counted_progress(console, "Exporting", total) as report:
        export_shards(directory, out, to, report)
    console.print(f"{out}: {counted(total, 'sample')} as {to}")


@options_of(ShardOptions, "seed", "test_fraction")
def images(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Zip to write.")] = Path("data/images.zip"),
    data: Annotated[str, typer.Option("--data", "--source", help=DATA_HELP)] = ShardOptions.data,
) -> None:
    """Write a data set's untouched images as one zip of class folders."""
    from stylize.sources import export_images
    from stylize.sources.opening import open_source

    options = ShardOptions(data=data, **given)
    source = open_source(data, seed=options.seed, test_fraction=options.test_fraction)
    count = export_images(source, out)
    notes = "".join(f"; {note}" for note in source.notes)
    console.print(f"{out}: {counted(count, 'image')}{ignored_text(source.ignored)}{notes}")


def upload(
    directory: Annotated[Path, typer.Argument(help="A finished folder.")],
    url: Annotated[str, typer.Argument(help="Where to upload it: s3://bucket/folder or hf://datasets/OWNER/NAME.")],
) -> None:
    """Upload a finished folder to S3 or the Hugging Face Hub, manifest last; run the same command again to go on."""
    from stylize.shards.card import read_facts
    from stylize.shards.index import side_names
    from stylize.shards.upload import upload_shards

    manifest = read_manifest(directory)
    if url.startswith("hf://") and not read_facts(directory).licence:
        print_notice(NO_LICENCE)
    names = [*(shard.name for shard in manifest.shards), FAILURES_NAME, *side_names(manifest)]
    total = sum((directory / name).stat().st_size for name in names if (directory / name).is_file())
    with counted_progress(console, "Uploading", total, BYTES) as report:
        manifest = upload_shards(directory, url, report)
    print_summary(url, manifest)
