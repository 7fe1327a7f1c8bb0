"""What is known of finished shards: a receipt each in the staging folder, and the manifest that all of them make."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylize.console import InputError
from stylize.files import file_sha256, write_atomically
from stylize.jobs import ShardPlan, Spec, plan_shards, shard_sizes
from stylize.jobs.job import Failure
from stylize.jobs.output import link_or_copy, publish, write_failures
from stylize.shards import Sample, read_shard
from stylize.shards.decode import PictureError
from stylize.shards.manifest import Flag, Manifest, ShardEntry
from stylize.sources import Source

REPEATED = "the same file is in train"


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished shard; written after it, so that its presence means the shard is whole."""

    shard: ShardEntry
    failures: tuple[Failure, ...]
    flags: tuple[Flag, ...]
    sources: Mapping[str, str]  # every sample's key and the SHA-256 of its source
    source_fingerprint: str  # of the source that the shard was made from, or was found to agree with


ReadReceipts = Callable[[], Iterator[Receipt]]


def write_receipt(staging: Path, receipt: Receipt) -> None:
    """Write a receipt into the staging folder, whole or not at all."""
    path = staging / "receipts" / f"{receipt.shard.name}.json"
    write_atomically(path, json.dumps(asdict(receipt)).encode())


def read_receipt(staging: Path, name: str) -> Receipt | None:
    """Return the receipt of a shard that is there; None without one, or where a crash of the machine damaged it."""
    try:
        document = json.loads((staging / "receipts" / f"{name}.json").read_bytes())
        shard = ShardEntry(**document["shard"])
        failures = tuple(Failure(**failure) for failure in document["failures"])
        flags = tuple(Flag(**flag) for flag in document["flags"])
        receipt = Receipt(shard, failures, flags, dict(document["sources"]), str(document["source_fingerprint"]))
        return receipt if (staging / "shards" / name).stat().st_size == shard.bytes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def current_receipt(spec: Spec, source: Source, plan: ShardPlan, staging: Path) -> Receipt | None:
    """Return the receipt of a finished shard whose images are what the source has now, None without one.

    Where the source has changed since, the shard is compared with it, image by image, and its receipt renewed.
    """
    receipt = read_receipt(staging, plan.name)
    if receipt is None or receipt.source_fingerprint == spec.source_fingerprint:
        return receipt
    with suppress(InputError, PictureError):
        if all(_has_source(source, plan.split, sample) for sample in read_shard(staging / "shards" / plan.name)):
            renewed = replace(receipt, source_fingerprint=spec.source_fingerprint)
            write_receipt(staging, renewed)
            return renewed
    return None


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
        if entry is None or entry.samples != len(plan.indices) or read_receipt(staging, plan.name):
            continue
        if published.is_file() and file_sha256(published) == entry.sha256:
            link_or_copy(published, staging / "shards" / plan.name)
            sources = {sample.key: str(sample.metadata["source_sha256"]) for sample in read_shard(published)}
            flags = (flag for flag in manifest.flagged if flag.split == plan.split and flag.reason != REPEATED)
            kept = tuple(flag for flag in flags if flag.key in sources)
            write_receipt(staging, Receipt(entry, (), kept, sources, fingerprint))


def missing_receipts(spec: Mapping[str, Any], staging: Path) -> list[str]:
    """Return the names of shards that are not finished, or were made from other images than the specification's."""
    names, fingerprint = shard_sizes(spec["counts"], spec["samples_per_shard"]), spec["source_fingerprint"]
    receipts = ((name, read_receipt(staging, name)) for name in names)
    return [name for name, receipt in receipts if receipt is None or receipt.source_fingerprint != fingerprint]


def publish_receipts(
    spec: Mapping[str, Any],
    ignored: Mapping[str, int],
    staging: Path,
    out: Path,
    max_failures: int,
    *,
    replace: bool = False,
) -> Manifest:
    """Publish the finished shards of a staging folder as `out`; with `replace` in place of an older folder.

    Raises `InputError` where a shard is missing, or more than `max_failures` images could not be used.
    """
    read = partial(_read_receipts, staging, shard_sizes(spec["counts"], spec["samples_per_shard"]))
    shards: list[ShardEntry] = []
    failures: list[Failure] = []
    flags: list[Flag] = []
    for receipt in read():
        shards.append(receipt.shard)
        failures += receipt.failures
        flags += receipt.flags
    failed = write_failures(failures, staging, max_failures)
    manifest = Manifest(spec, tuple(shards), *failed, (*flags, *_repeated_flags(read)), dict(ignored))
    publish(manifest, staging, out, replace=replace)
    return manifest


def _read_receipts(staging: Path, names: Iterable[str]) -> Iterator[Receipt]:
    for name in names:
        receipt = read_receipt(staging, name)
        if receipt is None:
            raise InputError(f"{staging / 'shards' / name} is missing: run the same command.")
        yield receipt


def _repeated_flags(read: ReadReceipts) -> Iterator[Flag]:
    """Yield a flag for every image of another split whose file is in train too: what only all shards together show.

    SHA-256 are compared whole, but only for images whose first 64 bits match.
    """
    others = [_prefixes(receipt) for receipt in read() if receipt.shard.split != "train"]
    prefixes = np.sort(np.concatenate([np.zeros(0, np.uint64), *others]))
    train: set[str] = set()
    for receipt in read() if len(prefixes) else ():
        if receipt.shard.split == "train":
            own = _prefixes(receipt)
            found = prefixes[np.minimum(np.searchsorted(prefixes, own), len(prefixes) - 1)] == own
            train.update(sha256 for sha256, match in zip(receipt.sources.values(), found, strict=True) if match)
    for receipt in read() if train else ():
        if receipt.shard.split != "train":
            repeated = (key for key, sha256 in receipt.sources.items() if sha256 in train)
            yield from (Flag(receipt.shard.split, key, REPEATED) for key in repeated)


def _prefixes(receipt: Receipt) -> NDArray[np.uint64]:
    return np.array([int(sha256[:16], 16) for sha256 in receipt.sources.values()], np.uint64)
