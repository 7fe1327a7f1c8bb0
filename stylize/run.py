"""`stylize shards`: from a data set to a published folder of shards, one shard at a time, resumable in between."""

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stylize.errors import InputError
from stylize.job import Failure, Job, Receipt, Report, make_shard
from stylize.manifest import FAILURES_NAME, MANIFEST_NAME, Flag, Manifest, ShardEntry, read_manifest, write_manifest
from stylize.quality import flag_repeated
from stylize.shards import file_sha256
from stylize.spec import ShardPlan, Spec, plan_shards


def make_shards(job: Job, out: Path, max_failures: int = 0, report: Report = lambda images: None) -> Manifest:
    """Make a job's shards in the folder `out` and return their manifest; a finished folder is left as it is.

    Work in progress lies in a hidden folder beside `out`, named by the specification's hash: the same call goes on
    where an interrupted one stopped, tries images that failed again, and never mixes with another job.
    `report` receives numbers of finished images.

    Raises:
        InputError: `out` holds something else or cannot be written, another run is at work, or more than
            `max_failures` images could not be used (what was made is kept for a rerun with a higher limit).
    """
    if max_failures < 0:
        raise InputError(f"--max-failures is {max_failures}: give 0 or more.")
    out = out.resolve()  # a link to a folder could not be renamed onto
    if (finished := find_finished(out, job.spec)) is not None:
        if finished.failures > max_failures:
            raise InputError(f"{out} lacks {finished.failures} images, see {FAILURES_NAME}: raise --max-failures.")
        return finished
    staging = out.parent / ".staging" / job.spec.digest()[:16]
    with _locked(staging):
        try:
            return _make_and_publish(job, staging, out, max_failures, report)
        except OSError as error:
            raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def _make_and_publish(job: Job, staging: Path, out: Path, max_failures: int, report: Report) -> Manifest:
    receipts = [_make_or_reuse(job, plan, staging, report) for plan in plan_shards(job.spec, job.source)]
    failures = [failure for receipt in receipts for failure in receipt.failures]
    record = _check_failures(failures, staging, max_failures)
    failed = len(failures), file_sha256(record) if failures else None
    manifest = Manifest(_plain(job.spec), tuple(receipt.shard for receipt in receipts), *failed, _flags(receipts))
    _publish(manifest, staging, out)
    return manifest


def _flags(receipts: Sequence[Receipt]) -> tuple[Flag, ...]:
    """Return the shards' flags and those that only all shards together show."""
    train = (sha256 for receipt in receipts if receipt.shard.split == "train" for sha256 in receipt.sources.values())
    test = (source for receipt in receipts if receipt.shard.split == "test" for source in receipt.sources.items())
    return (*(flag for receipt in receipts for flag in receipt.flags), *flag_repeated(train, test))


def _plain(spec: Spec) -> dict[str, Any]:
    """Return the specification as its JSON reads back."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    return document


def find_finished(out: Path, spec: Spec) -> Manifest | None:
    """Return the manifest of a folder that holds the specification's shards, None where there is nothing yet.

    Raises `InputError` where the folder holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST_NAME).is_file():
        raise InputError(f"{out} exists and is not a shard folder: give another --out, or remove it.")
    manifest = read_manifest(out)
    if manifest.spec != _plain(spec):
        raise InputError(f"{out} holds shards made with other options: give another --out, or remove it.")
    return manifest


@contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Create the staging folder, keep other runs out of it, and clear what a killed run left half-written."""
    try:
        (staging / "shards").mkdir(parents=True, exist_ok=True)
        (staging / "receipts").mkdir(exist_ok=True)
        (staging.parent / ".gitignore").write_text("*\n")
        lock = open(staging / "lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{staging.parent.parent} cannot be written ({error.strerror}): give another --out.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another run is making the same shards in {staging}: wait for it to end.") from None
        for leftover in staging.glob("*/*.part"):
            leftover.unlink()
        yield


def _make_or_reuse(job: Job, plan: ShardPlan, staging: Path, report: Report) -> Receipt:
    receipt_file = staging / "receipts" / f"{plan.name}.json"
    shard = staging / "shards" / plan.name
    known = _read_receipt(receipt_file)
    if known and not known.failures and shard.is_file() and shard.stat().st_size == known.shard.bytes:
        report(len(plan.indices))
        return known
    receipt = make_shard(job, plan, staging / "shards", report)
    _write_receipt(receipt_file, receipt)
    return receipt


def _write_receipt(path: Path, receipt: Receipt) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(asdict(receipt)))
    temporary.rename(path)


def _read_receipt(path: Path) -> Receipt | None:
    """Return a shard's receipt, None where there is none or a crash of the machine left it unreadable."""
    try:
        document = json.loads(path.read_text())
        failures = tuple(Failure(**failure) for failure in document["failures"])
        flags = tuple(Flag(**flag) for flag in document["flags"])
        return Receipt(ShardEntry(**document["shard"]), failures, flags, dict(document["sources"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _check_failures(failures: Sequence[Failure], staging: Path, max_failures: int) -> Path:
    """Write `failures.jsonl` into the staging folder and return its path, if its lines are not too many."""
    record = staging / FAILURES_NAME
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
    record.write_text(lines, encoding="utf-8")
    if len(failures) > max_failures:
        first = f"{failures[0].path} {failures[0].reason}"
        raise InputError(
            f"{len(failures)} images could not be used (first: {first}; all: {record}): "
            f"mend them, or accept them with --max-failures {len(failures)}; finished shards are kept."
        )
    return record


def _publish(manifest: Manifest, staging: Path, out: Path) -> None:
    """Write the manifest last and move the whole folder into place with one rename."""
    shards = staging / "shards"
    (shards / FAILURES_NAME).unlink(missing_ok=True)  # of a run that was killed while it published
    if manifest.failures:
        (staging / FAILURES_NAME).replace(shards / FAILURES_NAME)
    write_manifest(shards, manifest)
    shards.rename(out)
    shutil.rmtree(staging)
