"""Finished shards in the staging folder: their receipts, and which of them still agree with the source."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.runs.job import Failure, Receipt
from stylize.runs.publish import link_or_copy
from stylize.runs.quality import REPEATED
from stylize.runs.spec import ShardPlan, Spec, plan_shards
from stylize.shards.format import Sample, file_sha256, read_shard
from stylize.shards.manifest import Flag, Manifest, ShardEntry
from stylize.sources.pictures import PictureError
from stylize.sources.source import Source


def receipt_file(staging: Path, name: str) -> Path:
    """Return where a shard's receipt lies."""
    return staging / "receipts" / f"{name}.json"


def write_receipt(staging: Path, receipt: Receipt) -> None:
    """Write a receipt into the staging folder, whole or not at all."""
    write_atomically(receipt_file(staging, receipt.shard.name), render_receipt(receipt))


def render_receipt(receipt: Receipt) -> bytes:
    """Return a receipt as JSON."""
    return json.dumps(asdict(receipt)).encode()


def read_receipt(staging: Path, name: str) -> Receipt | None:
    """Return the receipt of a shard that is there; None without one, or where a crash of the machine damaged it."""
    try:
        receipt = parse_receipt(receipt_file(staging, name).read_bytes())
        return receipt if (staging / "shards" / name).stat().st_size == receipt.shard.bytes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def read_receipts(staging: Path, names: Iterable[str]) -> Iterator[Receipt]:
    """Yield the receipts of shards; raise `InputError` where one is not finished."""
    for name in names:
        receipt = read_receipt(staging, name)
        if receipt is None:
            raise InputError(f"{staging / 'shards' / name} is missing: run the same command.")
        yield receipt


def parse_receipt(payload: bytes) -> Receipt:
    """Return a receipt from its JSON; raise `ValueError`, `KeyError` or `TypeError` where it is none."""
    document = json.loads(payload)
    failures = tuple(Failure(**failure) for failure in document["failures"])
    flags = tuple(Flag(**flag) for flag in document["flags"])
    sources, fingerprint = dict(document["sources"]), str(document["source_fingerprint"])
    return Receipt(ShardEntry(**document["shard"]), failures, flags, sources, fingerprint)


def current_receipt(spec: Spec, source: Source, plan: ShardPlan, staging: Path) -> Receipt | None:
    """Return the receipt of a finished shard whose images are what the source has now, None without one.

    Where the source has changed since, the shard is compared with it, image by image, and its receipt renewed.
    """
    receipt = read_receipt(staging, plan.name)
    if receipt is None or receipt.source_fingerprint == spec.source_fingerprint:
        return receipt
    if not _has_sources(source, plan, staging / "shards" / plan.name):
        return None
    renewed = replace(receipt, source_fingerprint=spec.source_fingerprint)
    write_receipt(staging, renewed)
    return renewed


def _has_sources(source: Source, plan: ShardPlan, shard: Path) -> bool:
    with suppress(InputError, PictureError):
        return all(_has_source(source, plan.split, sample) for sample in read_shard(shard))
    return False


def _has_source(source: Source, split: str, sample: Sample) -> bool:
    index = int(sample.key)
    recorded = sample.label, sample.metadata["source"], sample.metadata["source_sha256"]
    digest = hashlib.sha256(source.read(split, index)).hexdigest()
    return recorded == (source.label(split, index), source.path(split, index), digest)


def adopt_shards(spec: Spec, source: Source, manifest: Manifest, out: Path, staging: Path) -> None:
    """Take the whole shards of a published folder into the staging folder, those without failed images.

    They are linked, not copied, where the file system can.
    """
    entries, fingerprint = {entry.name: entry for entry in manifest.shards}, str(manifest.spec["source_fingerprint"])
    for plan in plan_shards(spec, source):
        entry, published = entries.get(plan.name), out / plan.name
        if entry and _is_whole(published, entry, plan) and read_receipt(staging, plan.name) is None:
            link_or_copy(published, staging / "shards" / plan.name)
            sources = {sample.key: str(sample.metadata["source_sha256"]) for sample in read_shard(published)}
            flags = (flag for flag in manifest.flagged if flag.split == plan.split and flag.reason != REPEATED)
            kept = tuple(flag for flag in flags if flag.key in sources)
            write_receipt(staging, Receipt(entry, (), kept, sources, fingerprint))


def _is_whole(path: Path, entry: ShardEntry, plan: ShardPlan) -> bool:
    """Return whether a published shard lacks no image and is as it was written."""
    return entry.samples == len(plan.indices) and path.is_file() and file_sha256(path) == entry.sha256
