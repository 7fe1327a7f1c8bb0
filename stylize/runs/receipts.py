"""Finished shards in the staging folder: their receipts, and which of them still agree with the source."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.runs.job import Failure, Job, Receipt
from stylize.runs.publish import link_or_copy
from stylize.runs.quality import REPEATED
from stylize.runs.spec import ShardPlan, plan_shards
from stylize.shards.format import Sample, file_sha256, read_shard
from stylize.shards.manifest import Flag, Manifest, ShardEntry
from stylize.sources.pictures import PictureError

_SOURCE_NAME = "source"  # the file that holds the fingerprint of the source that the staged shards were made from


def receipt_file(staging: Path, name: str) -> Path:
    """Return where a shard's receipt lies."""
    return staging / "receipts" / f"{name}.json"


def write_receipt(staging: Path, receipt: Receipt) -> None:
    """Write a receipt into the staging folder, whole or not at all."""
    write_atomically(receipt_file(staging, receipt.shard.name), json.dumps(asdict(receipt)).encode())


def read_receipt(staging: Path, name: str) -> Receipt | None:
    """Return the receipt of a shard that is there; None without one, or where a crash of the machine damaged it."""
    try:
        document = json.loads(receipt_file(staging, name).read_text(encoding="utf-8"))
        failures = tuple(Failure(**failure) for failure in document["failures"])
        flags = tuple(Flag(**flag) for flag in document["flags"])
        receipt = Receipt(ShardEntry(**document["shard"]), failures, flags, dict(document["sources"]))
        return receipt if (staging / "shards" / name).stat().st_size == receipt.shard.bytes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def adopt_shards(job: Job, manifest: Manifest, out: Path, staging: Path) -> None:
    """Take the whole shards of a published folder into the staging folder, those without failed images.

    They are linked, not copied, where the file system can. `drop_outdated` must follow.
    """
    entries = {entry.name: entry for entry in manifest.shards}
    record, fingerprint = staging / _SOURCE_NAME, str(manifest.spec["source_fingerprint"])
    mixed = record.is_file() and record.read_text() != fingerprint  # staged shards of an earlier retry
    record.write_text("" if mixed else fingerprint)
    for plan in plan_shards(job.spec, job.source):
        entry, published = entries.get(plan.name), out / plan.name
        if entry and _is_whole(published, entry, plan) and read_receipt(staging, plan.name) is None:
            link_or_copy(published, staging / "shards" / plan.name)
            sources = {sample.key: str(sample.metadata["source_sha256"]) for sample in read_shard(published)}
            flags = (flag for flag in manifest.flagged if flag.split == plan.split and flag.reason != REPEATED)
            write_receipt(staging, Receipt(entry, (), tuple(flag for flag in flags if flag.key in sources), sources))


def _is_whole(path: Path, entry: ShardEntry, plan: ShardPlan) -> bool:
    """Return whether a published shard lacks no image and is as it was written."""
    return entry.samples == len(plan.indices) and path.is_file() and file_sha256(path) == entry.sha256


def drop_outdated(job: Job, staging: Path) -> None:
    """Forget the staged shards whose images are no longer what the source has, if it changed at all."""
    record = staging / _SOURCE_NAME
    fingerprint = job.spec.source_fingerprint
    if record.is_file() and record.read_text() == fingerprint:
        return
    for plan in plan_shards(job.spec, job.source):
        if not _is_current(job, plan, staging):
            receipt_file(staging, plan.name).unlink(missing_ok=True)
    record.write_text(fingerprint)


def _is_current(job: Job, plan: ShardPlan, staging: Path) -> bool:
    if read_receipt(staging, plan.name) is None:
        return False
    with suppress(InputError, PictureError):
        return all(_has_source(job, plan.split, sample) for sample in read_shard(staging / "shards" / plan.name))
    return False


def _has_source(job: Job, split: str, sample: Sample) -> bool:
    index = int(sample.key)
    recorded = sample.label, sample.metadata["source"], sample.metadata["source_sha256"]
    digest = hashlib.sha256(job.source.read(split, index)).hexdigest()
    return recorded == (job.source.label(split, index), job.source.path(split, index), digest)
