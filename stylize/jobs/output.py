"""The output folder of a job: found finished, or locked, made shard by shard in a hidden folder, and published."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from stylize.console import InputError, Report, counted, option_name, silent
from stylize.files import file_sha256, remove_leftovers, wait_for_turn, write_atomically
from stylize.jobs.job import Failure
from stylize.jobs.spec import SAMPLES_PER_SHARD, ShardOptions, ShardPlan, Spec, plan_shards, shard_sizes, spec_digest
from stylize.shards import Sample, read_shard, write_shard
from stylize.shards.card import card_files
from stylize.shards.decode import PictureError
from stylize.shards.diff import diff_specs, spec_text
from stylize.shards.index import SIDE_NAME, write_side_files
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
from stylize.sources import Source

STAGING = ".staging"
LOCK_NAME = "lock"
JUST_ENDED = "Another run has just ended in {}: run the same command again."
FOLDERS = ("shards", "receipts", "locks")  # in a staging folder
MAX_HASHED_BYTES = 1_000_000_000  # a second or two of hashing, where the disk is as fast
OPTIONS = {
    **{field.name: option_name(field.name) for field in fields(ShardOptions)},
    **{"source": "--data", "styles": "--style", "counts": "--limit"},
    **{"encoder_sha256": "--encoder", "decoder_sha256": "--decoder"},
}  # by the fields of specifications that they decide
REPEATED = "the same file is in train"
Result = TypeVar("Result")
Results = Iterable[Sample | Failure]


def make_output(
    out: Path,
    spec: Mapping[str, Any],
    make: Callable[[Path, Manifest | None], Result],
    keep: Callable[[Manifest], Result | None],
    *,
    other_images: bool = False,
    shared: bool = False,
) -> Result:
    """Return what `keep` returns for a finished folder `out`, else what `make` returns for the staging folder.

    `keep` returns None where the finished folder is to be made again. `make` is called while the staging folder, which
    holds what an interrupted call has finished, is locked; it gets the finished folder's manifest too, if there is one.
    With `other_images` the finished folder may be of other images, with `shared` other such calls may go on at once.

    Raises `InputError` where `out` holds something else or cannot be written, or another run is at work.
    """
    out = out.resolve()  # a link to a folder could not be renamed onto
    staging = out.parent / STAGING / spec_digest(spec)[:16]
    finished = find_finished(out, spec, other_images=other_images)
    try:
        if finished and not staging.exists() and (kept := keep(finished)) is not None:
            return kept
        with _locked_staging(staging, shared=shared):
            finished = find_finished(out, spec, other_images=other_images)  # maybe by another run, until just now
            if finished and (kept := keep(finished)) is not None:
                _remove_staging(staging)
                return kept
            return make(staging, finished)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def find_finished(out: Path, spec: Mapping[str, Any], *, other_images: bool = False) -> Manifest | None:
    """Return the manifest of a folder that holds the specification's shards, None where there is nothing yet.

    With `other_images` the source's fingerprint may differ.
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
    try:
        manifest = read_manifest(out)
    except InputError as error:  # nothing tells what the shards are, and a run cannot go on from them
        reason = str(error).rpartition(": ")[0] or str(error).rstrip(".")  # without its own advice
        raise InputError(
            f"{out} cannot be taken as finished, {reason}: fetch it again, or remove {out} and run again."
        ) from None
    differing = {name: values for name, *values in diff_specs(manifest.spec, spec)}
    fingerprints = differing.pop("source_fingerprint", None)
    if differing:
        options = "; ".join(f"{OPTIONS.get(name, name)}: {_difference(*each)}" for name, each in differing.items())
        raise InputError(f"{out} holds shards made with other options ({options}): give another --out, or remove it.")
    if fingerprints and not other_images:
        raise InputError(f"{out} was made before some images changed: give --retry-failed, or another --out.")
    return manifest


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        one, other = ({name: values.get(name) for name in names} for values in (one, other))
    before, now = spec_text(one), spec_text(other)
    return f"{before}, now {now}" if before != now else f"not the same {now}"


@contextmanager
def _locked_staging(staging: Path, *, shared: bool) -> Iterator[None]:
    """Create the staging folder and keep other runs out of it; clear what a killed run left half-written.

    With `shared`, runs that do so too may be in it at once; nothing is cleared then. Where the work fails before
    anything is finished, no folder is left.
    """
    missing = [folder for folder in (staging, *staging.parents) if not folder.exists()]
    with _open_lock(staging) as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            in_place = os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))  # noqa: PTH116
        except FileNotFoundError:  # the run that held it has removed it
            in_place = False
        except BlockingIOError:
            raise InputError(f"Another run is making the same shards in {staging}: wait for it to end.") from None
        if not in_place:
            raise InputError(JUST_ENDED.format(staging))
        for folder in FOLDERS:  # made under the lock: who is refused leaves nothing behind
            (staging / folder).mkdir(exist_ok=True)
            if not shared:
                remove_leftovers(staging / folder)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # also where another run shares the folder
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_empty(staging, missing)
            raise


def _open_lock(staging: Path) -> TextIO:
    try:
        staging.mkdir(parents=True, exist_ok=True)
        (staging.parent / ".gitignore").write_text("*\n")
        return open(staging / LOCK_NAME, "w")
    except FileNotFoundError:  # the folder went between the lines
        raise InputError(JUST_ENDED.format(staging)) from None
    except OSError as error:
        raise InputError(f"{staging.parent.parent} cannot be written ({error.strerror}): give another --out.") from None


def _remove_empty(staging: Path, made: list[Path]) -> None:
    """Remove a staging folder without a finished or half-written shard, and of the folders made for it the empty ones.

    Raises `OSError` at the first that is not empty.
    """
    if any(any((staging / folder).glob("*.*")) for folder in ("shards", "receipts")) or (staging / "replaced").exists():
        return
    _remove_staging(staging)
    for folder in made[1:]:
        if folder == staging.parent and not any(folder.glob("*/")):
            (folder / ".gitignore").unlink()
        folder.rmdir()


@contextmanager
def locked_shard(staging: Path, name: str) -> Iterator[None]:
    """Wait until no other process makes this shard, and clear what a killed one left of it.

    Raises `InputError` where the other one writes nothing for `PATIENCE`.
    """
    with open(staging / "locks" / name, "w") as lock:
        wait_for_turn(lock.fileno(), staging / "shards", f"Another process, which makes {name} in {staging},")
        remove_leftovers(staging / "shards", name)
        yield


def damaged_files(finished: Manifest, out: Path) -> tuple[list[str], bool]:
    """Return the names of a finished folder's files that are missing or not as written, and whether all was read.

    `failures.jsonl` counts too. Sizes always tell; SHA-256 where the shards are small enough together.
    """
    read = sum(shard.bytes for shard in finished.shards) <= MAX_HASHED_BYTES
    damaged = [
        shard.name
        for shard in finished.shards
        if not (path := out / shard.name).is_file()
        or path.stat().st_size != shard.bytes
        or (read and file_sha256(path) != shard.sha256)
    ]
    record = out / FAILURES_NAME
    if finished.failures_sha256 and not (record.is_file() and file_sha256(record) == finished.failures_sha256):
        damaged.append(FAILURES_NAME)
    return damaged, read


def refuse_damaged(finished: Manifest, out: Path, advice: str) -> None:
    """Raise `InputError`, with the advice, where files of a finished folder are damaged or missing."""
    if damaged := damaged_files(finished, out)[0]:
        raise InputError(f"{out} is damaged ({', '.join(damaged)}): {advice}.")


def accepted(finished: Manifest, out: Path, max_failures: int) -> Manifest:
    """Return a finished folder's manifest; raise `InputError` where it lacks more images than are accepted."""
    if finished.failures > max_failures:
        raise InputError(
            f"{out} lacks {counted(finished.failures, 'image')}, see {FAILURES_NAME}: "
            f"mend and give --retry-failed, or raise --max-failures."
        )
    return finished


def check_max_failures(max_failures: int) -> None:
    """Raise `InputError` for a number of failures that is none."""
    if max_failures < 0:
        raise InputError(f"--max-failures is {max_failures}: give 0 or more.")


def publish(manifest: Manifest, staging: Path, out: Path, *, replace: bool = False) -> None:
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
        _keep_own_files(out, shards)
    write_side_files(shards, manifest)
    write_manifest(shards, manifest)
    remove_leftovers(shards)  # a worker that was given up may have gone on until now
    if replace:
        out.rename(staging / "replaced")
    shards.rename(out)
    _remove_staging(staging)


def _keep_own_files(out: Path, shards: Path) -> None:
    """Link a data card that somebody has edited, and what else lies in the folder, into the one that replaces it."""
    made, cards = (MANIFEST_NAME, FAILURES_NAME), card_files(read_manifest(out))
    for path in out.iterdir():
        ours: object = path.name in made or SHARD_NAME.fullmatch(path.name) or SIDE_NAME.fullmatch(path.name)
        if path.name in cards and path.is_file():
            ours = path.read_bytes() == cards[path.name]
        if path.is_file() and not ours:
            link_or_copy(path, shards / path.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file into another folder in place of what is there, without copying it where the file system can."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _remove_staging(staging: Path) -> None:
    """Remove the staging folder; what cannot be removed, say the open lock's file on NFS, is left lying.

    The lock goes last: a run that comes meanwhile is kept out, or starts afresh, and leaves nothing behind.
    """
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def write_failures(failures: Sequence[Failure], staging: Path, max_failures: int) -> tuple[int, str | None]:
    """Write `failures.jsonl` into the staging folder; return the number of lines and, if any, the SHA-256.

    Raises `InputError` where there are more than `max_failures`.
    """
    record = staging / FAILURES_NAME
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
    record.write_text(lines, encoding="utf-8")
    check_failures(failures, max_failures, f"all: {record}")
    return len(failures), file_sha256(record) if failures else None


def check_failures(failures: Sequence[Failure], max_failures: int, remark: str) -> None:
    """Raise `InputError` for more than `max_failures` images that could not be used; it names the first."""
    if len(failures) > max_failures:
        first = f"{failures[0].path} {failures[0].reason}"
        raise InputError(
            f"{counted(len(failures), 'image')} could not be used (first: {first}; {remark}): "
            f"mend, or accept with --max-failures {len(failures)}; finished shards are kept."
        )


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


def make_sample_set(
    spec: Mapping[str, Any], results: Mapping[str, Results], out: Path, max_failures: int = 0, report: Report = silent
) -> Manifest:
    """Make the folder `out` of every split's samples and return its manifest; a whole folder is left as it is.

    `spec` is what the manifest will hold. `report` receives numbers of finished images.
    Raises `InputError` where `out` is damaged, holds something else or cannot be written, another run is making it, or
    more than `max_failures` images could not be made.
    """
    check_max_failures(max_failures)

    def keep(finished: Manifest) -> Manifest:
        refuse_damaged(finished, out, "remove it and run the same command")
        return finished

    def make(staging: Path, _finished: Manifest | None) -> Manifest:
        for path in (staging / "shards").iterdir():  # of an interrupted run: samples come again from the first on
            path.unlink()
        failures: list[Failure] = []
        entries: list[ShardEntry] = []
        for split, made in results.items():
            samples = _samples(made, failures, report)
            for number in count():
                path = staging / "shards" / f"{split}-{number:06d}.tar"
                if not (batch := list(islice(samples, SAMPLES_PER_SHARD))):
                    break
                write_shard(path, batch, spec["codec"])
                entries.append(ShardEntry(path.name, split, len(batch), path.stat().st_size, file_sha256(path)))
        manifest = Manifest(spec, tuple(entries), *write_failures(failures, staging, max_failures))
        publish(manifest, staging, out.resolve())
        return manifest

    return make_output(out, spec, make, keep)


def _samples(results: Results, failures: list[Failure], report: Report) -> Iterator[Sample]:
    for result in results:
        if isinstance(result, Failure):
            failures.append(result)
        else:
            yield result
        report(1)
