"""The output folder of a job: found, locked, resumed in staging, published by one rename."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from stylize.console import InputError, counted
from stylize.files import remove_leftovers, write_atomically
from stylize.jobs.job import Failure, Receipt, Report
from stylize.jobs.make_shard import REPEATED, flag_repeated
from stylize.jobs.spec import SAMPLES_PER_SHARD, ShardPlan, Spec, plan_shards
from stylize.shards.decode import PictureError
from stylize.shards.manifest import (
    FAILURES_NAME,
    MANIFEST_NAME,
    SHARD_NAME,
    Flag,
    Manifest,
    ShardEntry,
    read_manifest,
    write_manifest,
)
from stylize.shards.shard import Sample, file_sha256, read_shard, write_shard
from stylize.shards.side_files import CARD_NAME, SIDE_NAME, render_card, write_side_files
from stylize.sources.source import Source

STAGING = ".staging"
LOCK_NAME = "lock"


def staging_folder(out: Path, spec: Spec) -> Path:
    """Return where the shards of a specification lie until they are published as `out`: hidden, beside it."""
    return out.parent / STAGING / spec.digest()[:16]


@contextmanager
def locked_staging(staging: Path, *, shared: bool = False) -> Iterator[None]:
    """Create the staging folder and keep other runs out of it; clear what a killed run left half-written.

    With `shared`, runs that do so too may be in it at once; nothing is cleared then.
    """
    with _open_lock(staging) as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another run is making the same shards in {staging}: wait for it to end.") from None
        if not _is_in_place(lock):
            raise _just_ended(staging)
        for folder in ("shards", "receipts", "locks"):  # made under the lock: who is refused leaves nothing behind
            (staging / folder).mkdir(exist_ok=True)
        if not shared:
            remove_leftovers(staging / "shards")
            remove_leftovers(staging / "receipts")
        yield


def _open_lock(staging: Path) -> TextIO:
    try:
        staging.mkdir(parents=True, exist_ok=True)
        (staging.parent / ".gitignore").write_text("*\n")
        return open(staging / LOCK_NAME, "w")
    except FileNotFoundError:  # the folder went between the lines
        raise _just_ended(staging) from None
    except OSError as error:
        raise InputError(f"{staging.parent.parent} cannot be written ({error.strerror}): give another --out.") from None


def _just_ended(staging: Path) -> InputError:
    return InputError(f"Another run has just ended in {staging}: run the same command again.")


def _is_in_place(lock: TextIO) -> bool:
    """Return whether an open lock is still the file of that name: the run that held it may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))  # noqa: PTH116
    except FileNotFoundError:
        return False


@contextmanager
def locked_shard(staging: Path, name: str) -> Iterator[None]:
    """Wait until no other process makes this shard, and clear what a killed one left of it."""
    with open(staging / "locks" / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers(staging / "shards", name)
        yield


MAX_HASHED_BYTES = 1_000_000_000  # a second or two of hashing, where the disk is as fast


def plain_spec(spec: Spec) -> dict[str, Any]:
    """Return the specification as its JSON reads back."""
    document: dict[str, Any] = json.loads(json.dumps(spec.document()))
    return document


def find_finished(out: Path, spec: Spec, *, other_images: bool = False) -> Manifest | None:
    """Return the manifest of a folder that holds the specification's shards, None where there is nothing yet.

    With `other_images` the source's fingerprint may differ. Raises `InputError` as `find_folder`.
    """
    return find_folder(out, plain_spec(spec), other_images=other_images)


def find_folder(out: Path, wanted: Mapping[str, Any], *, other_images: bool = False) -> Manifest | None:
    """Do as `find_finished` for a specification as its JSON reads back.

    Raises `InputError` where the folder holds something else, cannot be read, or could not be renamed onto.
    """
    try:
        if out.is_mount():  # finished shards are moved into place by renaming their folder
            raise InputError(f"{out} is a mount point: give a folder in it.")
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
    except OSError as error:
        raise InputError(f"{out} cannot be read ({error.strerror}): give another --out.") from None
    if not (out / MANIFEST_NAME).is_file():
        raise InputError(f"{out} exists and is not a shard folder: give another --out, or remove it.")
    manifest = _read_own_manifest(out)
    if {**manifest.spec, "source_fingerprint": None} != {**wanted, "source_fingerprint": None}:
        raise InputError(f"{out} holds shards made with other options: give another --out, or remove it.")
    if manifest.spec != wanted and not other_images:
        raise InputError(f"{out} was made before some images changed: give --retry-failed, or another --out.")
    return manifest


def _read_own_manifest(out: Path) -> Manifest:
    """Read the manifest; where it is damaged nothing tells what the shards are, and a run cannot go on from them."""
    try:
        return read_manifest(out)
    except InputError as error:
        reason = str(error).rpartition(": ")[0] or str(error).rstrip(".")  # without its own advice
        raise InputError(
            f"{out} cannot be taken as finished, {reason}: fetch it again, or remove {out} and run again."
        ) from None


def needs_retry(finished: Manifest, spec: Spec, retry_failed: bool) -> bool:
    """Return whether a finished folder that lacks images, or has others than the source now, is to be mended."""
    return retry_failed and (finished.failures > 0 or finished.spec != plain_spec(spec))


def compares_hashes(finished: Manifest) -> bool:
    """Return whether a folder is small enough that a run which finds it finished reads it all."""
    return sum(shard.bytes for shard in finished.shards) <= MAX_HASHED_BYTES


def damaged_files(finished: Manifest, out: Path) -> list[str]:
    """Return the names of a finished folder's files that are missing or not as they were written.

    Sizes always tell, SHA-256 only where `compares_hashes`; `failures.jsonl` counts too.
    """
    read = compares_hashes(finished)
    damaged = [shard.name for shard in finished.shards if not _is_as_written(out / shard.name, shard, read)]
    record = out / FAILURES_NAME
    if finished.failures_sha256 and not (record.is_file() and file_sha256(record) == finished.failures_sha256):
        damaged.append(FAILURES_NAME)
    return damaged


def _is_as_written(path: Path, shard: ShardEntry, read: bool) -> bool:
    if not path.is_file() or path.stat().st_size != shard.bytes:
        return False
    return not read or file_sha256(path) == shard.sha256


def accepted(finished: Manifest, out: Path, max_failures: int) -> Manifest:
    """Return a finished folder's manifest; raise `InputError` where it lacks more images than are accepted."""
    if finished.failures > max_failures:
        raise InputError(
            f"{out} lacks {counted(finished.failures, 'image')}, see {FAILURES_NAME}: "
            f"mend and give --retry-failed, or raise --max-failures."
        )
    return finished


def publish(manifest: Manifest, staging: Path, out: Path, replace: bool) -> None:
    """Write the manifest last and move the whole folder into place with one rename.

    With `replace` the older folder in that place is first moved into the staging folder, and files in it that are none
    of ours are kept; after a kill in between, the next run goes on. Raises `OSError` where the place is taken, say by
    another run with other options.
    """
    shards = staging / "shards"
    (shards / FAILURES_NAME).unlink(missing_ok=True)  # of a run that was killed while it published
    if manifest.failures:
        (staging / FAILURES_NAME).replace(shards / FAILURES_NAME)
    if replace:
        _keep_edited_card(out, shards)
    write_side_files(shards, manifest)
    write_manifest(shards, manifest)
    remove_leftovers(shards)  # a worker that was given up may have gone on until now
    if replace:
        _keep_foreign_files(out, shards)
        out.rename(staging / "replaced")
    shards.rename(out)
    remove_staging(staging)


def _keep_edited_card(out: Path, shards: Path) -> None:
    """Link a data card that somebody has edited into the folder that replaces its own."""
    card = out / CARD_NAME
    if card.is_file() and card.read_bytes() != render_card(read_manifest(out)).encode():
        link_or_copy(card, shards / CARD_NAME)


def _keep_foreign_files(out: Path, shards: Path) -> None:
    """Link what else lies in the folder, say a note, into the one that replaces it."""
    named = (MANIFEST_NAME, FAILURES_NAME, CARD_NAME)
    for path in out.iterdir():
        ours = path.name in named or SHARD_NAME.fullmatch(path.name) or SIDE_NAME.fullmatch(path.name)
        if path.is_file() and not ours and not (shards / path.name).exists():
            link_or_copy(path, shards / path.name)


def remove_staging(staging: Path) -> None:
    """Remove the staging folder; what cannot be removed, say the open lock's file on NFS, is left lying.

    The lock goes last: a run that comes meanwhile is kept out, or starts afresh, and leaves nothing behind.
    """
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file into another folder in place of what is there, without copying it where the file system can."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


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


ReadReceipts = Callable[[], Iterator[Receipt]]


def collect_manifest(
    read: ReadReceipts, spec: Mapping[str, Any], ignored: Mapping[str, int], staging: Path, max_failures: int
) -> Manifest:
    """Return the manifest of a job's shards and write `failures.jsonl` into the staging folder.

    `read` yields the receipts in the order of the shards, as often as it is called.
    Raises `InputError` where more than `max_failures` images could not be used.
    """
    shards: list[ShardEntry] = []
    failures: list[Failure] = []
    flags: list[Flag] = []
    for receipt in read():
        shards.append(receipt.shard)
        failures += receipt.failures
        flags += receipt.flags
    record = check_failures(failures, staging, max_failures)
    failed = len(failures), file_sha256(record) if failures else None
    return Manifest(spec, tuple(shards), *failed, (*flags, *_repeated_flags(read)), dict(ignored))


def _repeated_flags(read: ReadReceipts) -> Iterator[Flag]:
    """Yield a flag for every image of another split whose file is in train too: what only all shards together show.

    SHA-256 are compared whole, but only for images whose first 64 bits match.
    """
    prefixes = np.sort(np.concatenate([_no_prefixes(), *(_prefixes(one) for one in read() if not _is_train(one))]))
    train: set[str] = set()
    for receipt in read() if len(prefixes) else ():
        if _is_train(receipt):
            own = _prefixes(receipt)
            found = prefixes[np.minimum(np.searchsorted(prefixes, own), len(prefixes) - 1)] == own
            train.update(sha256 for sha256, match in zip(receipt.sources.values(), found, strict=True) if match)
    for receipt in read() if train else ():
        if not _is_train(receipt):
            yield from flag_repeated(train, receipt.sources.items(), receipt.shard.split)


def _is_train(receipt: Receipt) -> bool:
    return receipt.shard.split == "train"


def _no_prefixes() -> NDArray[np.uint64]:
    return np.zeros(0, np.uint64)


def _prefixes(receipt: Receipt) -> NDArray[np.uint64]:
    return np.array([int(sha256[:16], 16) for sha256 in receipt.sources.values()], np.uint64)


def check_failures(failures: Sequence[Failure], staging: Path, max_failures: int) -> Path:
    """Write `failures.jsonl` into the staging folder and return its path, if its lines are not too many."""
    record = staging / FAILURES_NAME
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
    record.write_text(lines, encoding="utf-8")
    if len(failures) > max_failures:
        raise too_many_failures(failures, f"all: {record}")
    return record


def too_many_failures(failures: Sequence[Failure], remark: str) -> InputError:
    """Return the error that names the first image that could not be used and says what to do."""
    first = f"{failures[0].path} {failures[0].reason}"
    return InputError(
        f"{counted(len(failures), 'image')} could not be used (first: {first}; {remark}): "
        f"mend, or accept with --max-failures {len(failures)}; finished shards are kept."
    )


def check_max_failures(max_failures: int) -> None:
    """Raise `InputError` for a number of failures that is none."""
    if max_failures < 0:
        raise InputError(f"--max-failures is {max_failures}: give 0 or more.")


def missing_receipts(names: Iterable[str], read: Callable[[str], Receipt | None], fingerprint: str) -> list[str]:
    """Return the names of shards that are not finished, or were made from other images than the job's."""
    receipts = ((name, read(name)) for name in names)
    return [name for name, receipt in receipts if receipt is None or receipt.source_fingerprint != fingerprint]


Results = Iterable[Sample | Failure]


def make_sample_set(
    spec: Mapping[str, Any],
    results: Mapping[str, Results],
    out: Path,
    max_failures: int = 0,
    report: Report = lambda images: None,
) -> Manifest:
    """Make the folder `out` of every split's samples and return its manifest; a whole folder is left as it is.

    `spec` is what the manifest will hold. `report` receives numbers of finished images.

    Raises:
        InputError: `out` is damaged, holds something else or cannot be written, another run is making it, or more
            than `max_failures` images could not be made.
    """
    check_max_failures(max_failures)
    out = out.resolve()
    if finished := find_folder(out, spec):
        if damaged := damaged_files(finished, out):
            raise InputError(f"{out} is damaged ({', '.join(damaged)}): remove it and run the same command.")
        return finished
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    staging = out.parent / STAGING / digest[:16]
    try:
        with locked_staging(staging):
            failures: list[Failure] = []
            entries: list[ShardEntry] = []
            for split, made in results.items():
                entries += _write_shards(split, _samples(made, failures, report), staging / "shards", spec["codec"])
            record = check_failures(failures, staging, max_failures)
            failed = len(failures), file_sha256(record) if failures else None
            manifest = Manifest(spec, tuple(entries), *failed)
            publish(manifest, staging, out, replace=False)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None
    return manifest


def _samples(results: Results, failures: list[Failure], report: Report) -> Iterator[Sample]:
    for result in results:
        if isinstance(result, Failure):
            failures.append(result)
        else:
            yield result
        report(1)


def _write_shards(split: str, samples: Iterator[Sample], folder: Path, codec: str) -> Iterator[ShardEntry]:
    number = 0
    while batch := list(islice(samples, SAMPLES_PER_SHARD)):
        path = folder / f"{split}-{number:06d}.tar"
        write_shard(path, batch, codec)
        yield ShardEntry(path.name, split, len(batch), path.stat().st_size, file_sha256(path))
        number += 1
