"""`stylize verify`, `info` and `index`, and the summary of a folder of shards that other commands print too."""

from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import typer

from stylize.console import InputError, console, counted, print_notice
from stylize.shards.diff import spec_text
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, inspect_manifest, read_manifest

NAMED_FLAGS = 5


def verify(
    directory: Annotated[str, typer.Argument(help="Folder of shards, or its URL.")],
    quick: Annotated[bool, typer.Option("--quick", help="Manifest, names and sizes of a folder only.")] = False,
) -> None:
    """Read a shard folder again and name every defect; exit code 1 if there is one."""
    from stylize.shards.remote import is_url, shard_files
    from stylize.shards.sanity import folder_warnings
    from stylize.shards.verify import quick_defects, verify_shards

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


def info(directory: Annotated[str, typer.Argument(help="Folder of shards, or its URL.")]) -> None:
    """Print a shard folder's manifest for people."""
    from stylize.shards.remote import shard_files

    with shard_files(directory) as files:
        manifest = read_manifest(files.folder)
    print_summary(directory, manifest)
    width = max(map(len, manifest.spec), default=0)
    for name, value in manifest.spec.items():
        console.print(f"  {name:<{width}}  {spec_text(value)}", highlight=False)


def index(directory: Path) -> None:
    """Write a folder's indices, checksums and data card again, or for the first time; shards and manifest stay."""
    from stylize.shards.side_files import write_side_files

    manifest = read_manifest(directory)
    write_side_files(directory, manifest)
    console.print(f"{directory}: indices, checksums and data card of {counted(len(manifest.shards), 'shard')}")


def print_summary(directory: Path | str, manifest: Manifest, remark: str = "") -> None:
    """Print what a folder holds, and what looks wrong in it."""
    console.print(f"{directory}: {counts_line(manifest)}{remark}")
    for line in warning_lines(manifest):
        print_notice(line)


def counts_line(manifest: Manifest) -> str:
    """Return how many pairs, test images and shards there are, their size, and how many images failed."""
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    split_counts = [counted(manifest.samples("train"), "training pair")]
    if validation := manifest.samples("val"):
        split_counts.append(counted(validation, "validation image"))
    counts = f"{', '.join(split_counts)} and {counted(manifest.samples('test'), 'test image')}"
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
