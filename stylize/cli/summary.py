"""What a manifest says, in a few lines for people."""

from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from rich.table import Table

from stylize.command_line import console, print_notice
from stylize.runs.estimate import Estimate
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest
from stylize.wording import counted

NAMED_FLAGS = 5


def counts_line(manifest: Manifest) -> str:
    """Return how many pairs, test images and shards there are, their size, and how many images failed."""
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    split_counts = [counted(manifest.samples("train"), "training pair")]
    if validation := manifest.samples("val"):
        split_counts.append(counted(validation, "validation image"))
    counts = f"{', '.join(split_counts)} and {counted(manifest.samples('test'), 'test image')}"
    shards = counted(len(manifest.shards), "shard")
    failed = f"; {counted(manifest.failures, 'image')} failed, see {FAILURES_NAME}" if manifest.failures else ""
    return f"{counts} in {shards}, {megabytes:.1f} MB{left_out_text(manifest.left_out)}{failed}"


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Return how many files were left out, by rule; nothing for none."""
    if not left_out:
        return ""
    rules = ", ".join(f"{count} {rule}" for rule, count in sorted(left_out.items(), key=itemgetter(1), reverse=True))
    files = counted(sum(left_out.values()), "file that is no picture", "files that are no pictures")
    return f"; {files} left out ({rules})"


def plan_line(estimate: Estimate) -> str:
    """Return what a run would make and take."""
    minutes, pace = estimate.seconds / 60, estimate.images / max(estimate.seconds, 1e-9)
    disk = f"about {estimate.bytes / 1e6:.1f} MB of {estimate.free / 1e6:.0f} MB free"
    what = f"{counted(estimate.images, 'image')} in {counted(estimate.shards, 'shard')}"
    return f"{what}, {disk}, about {minutes:.1f} min at {pace:.1f} images/s"


def warning_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the first flagged samples, and how many there are."""
    for flag in manifest.flagged[:NAMED_FLAGS]:
        yield f"Warning: {flag.split} {flag.key}: {flag.reason}"
    if len(manifest.flagged) > NAMED_FLAGS:
        yield f"Warning: {len(manifest.flagged)} samples look wrong, all of them in {MANIFEST_NAME} under `flagged`"


def print_summary(directory: Path | str, manifest: Manifest, remark: str = "") -> None:
    """Print what a folder holds, and what looks wrong in it."""
    console.print(f"{directory}: {counts_line(manifest)}{remark}")
    for line in warning_lines(manifest):
        print_notice(line)


def manifest_table(manifest: Manifest, *, title: str) -> Table:
    """Return all that determined a folder's bytes, one line a field."""
    table = Table("", "", show_header=False, title=title)
    for name, value in manifest.spec.items():
        table.add_row(name, _plain(value))
    return table


def _plain(value: object) -> str:
    if isinstance(value, list):
        names = [entry["name"] if isinstance(entry, dict) else str(entry) for entry in value]
        return f"{len(names)}: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return str(value)
