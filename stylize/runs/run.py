"""`stylize shards`: from a data set to a published folder of shards, one shard at a time, resumable in between."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TextIO

from stylize.atomic import remove_leftovers
from stylize.errors import InputError
from stylize.runs.job import Failure, Job, Receipt, Report
from stylize.runs.make import make_shard
from stylize.runs.publish import (
    accepted,
    compares_hashes,
    damaged_files,
    find_finished,
    needs_retry,
    plain_spec,
    publish,
    remove_staging,
)
from stylize.runs.quality import flag_repeated
from stylize.runs.reading import read_image
from stylize.runs.receipts import adopt_shards, drop_outdated, read_receipt, write_receipt
from stylize.runs.spec import ShardPlan, plan_shards
from stylize.runs.workers import Workers, start_workers
from stylize.shards.format import file_sha256
from stylize.shards.manifest import FAILURES_NAME, Flag, Manifest
from stylize.wording import counted

Notice = Callable[[str], None]


def make_shards(
    job: Job,
    out: Path,
    max_failures: int = 0,
    report: Report = lambda images: None,
    *,
    retry_failed: bool = False,
    notice: Notice = lambda sentence: None,
) -> Manifest:
    """Make a job's shards in the folder `out` and return their manifest; a finished and whole folder is left as it is.

    Of a finished folder the files' sizes are compared with its manifest, and their SHA-256 where all are 1 GB or less;
    shards that are damaged or missing are made again.
    Work in progress lies in a hidden folder beside `out`, named by the specification's hash: the same call goes on
    where an interrupted one stopped, reads images that failed again, and never mixes with another job.
    With `retry_failed` a finished folder that lacks images, or whose images have changed since, is made anew from its
    shards that are whole and agree with the source; only the others are made again.
    `report` receives numbers of finished images, from any thread but never from two at once; `notice` receives what
    was found in a finished folder, in a sentence.

    Raises:
        InputError: `out` holds something else or cannot be written, another run is at work, or more than
            `max_failures` images could not be used (what was made is kept for a rerun with a higher limit).
    """
    if max_failures < 0:
        raise InputError(f"--max-failures is {max_failures}: give 0 or more.")
    out = out.resolve()  # a link to a folder could not be renamed onto
    finished = find_finished(out, job.spec, other_images=retry_failed)
    staging = out.parent / ".staging" / job.spec.digest()[:16]
    try:
        if finished and not staging.exists() and not _needs_work(finished, job, out, retry_failed, notice):
            return accepted(finished, out, max_failures)
        with locked_staging(staging):
            return _make_and_publish(job, staging, out, max_failures, report, retry_failed, notice)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def _make_and_publish(
    job: Job, staging: Path, out: Path, max_failures: int, report: Report, retry_failed: bool, notice: Notice
) -> Manifest:
    if finished := find_finished(out, job.spec, other_images=retry_failed):  # maybe by another run, until just now
        if not _needs_work(finished, job, out, retry_failed, notice):
            remove_staging(staging)
            return accepted(finished, out, max_failures)
        adopt_shards(job, finished, out, staging)
    drop_outdated(job, staging)
    with start_workers(job.engine.streams) as workers:
        make = partial(_make_or_reuse, job, staging, _one_at_a_time(report), workers)
        receipts = list(workers.shards.map(make, plan_shards(job.spec, job.source)))
    failures = [failure for receipt in receipts for failure in receipt.failures]
    record = check_failures(failures, staging, max_failures)
    failed = len(failures), file_sha256(record) if failures else None
    shards, left_out = tuple(receipt.shard for receipt in receipts), dict(job.source.left_out)
    manifest = Manifest(plain_spec(job.spec), shards, *failed, _flags(receipts), left_out)
    publish(manifest, staging, out, replace=finished is not None)
    return manifest


def _needs_work(finished: Manifest, job: Job, out: Path, retry_failed: bool, notice: Notice) -> bool:
    """Return whether a finished folder is to be made anew from its whole shards, and say what was found."""
    if damaged := damaged_files(finished, out):
        notice(f"{out}: damaged or missing, made again: {', '.join(damaged)}")
        return True
    if needs_retry(finished, job, retry_failed):
        return True
    compared = "sizes and SHA-256" if compares_hashes(finished) else "sizes (`stylize verify` reads everything)"
    notice(f"{out}: finished already, {compared} as recorded")
    return False


def _one_at_a_time(report: Report) -> Report:
    """Return a function that calls `report` from one thread at a time."""
    lock = Lock()

    def report_alone(images: int) -> None:
        with lock:
            report(images)

    return report_alone


def _flags(receipts: Sequence[Receipt]) -> tuple[Flag, ...]:
    """Return the shards' flags and those that only all shards together show."""
    train = {sha256 for receipt in receipts if receipt.shard.split == "train" for sha256 in receipt.sources.values()}
    flags = [flag for receipt in receipts for flag in receipt.flags]
    for receipt in receipts:
        if receipt.shard.split != "train":
            flags += flag_repeated(train, receipt.sources.items(), receipt.shard.split)
    return tuple(flags)


@contextmanager
def locked_staging(staging: Path) -> Iterator[None]:
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
        if not _is_in_place(lock):
            raise InputError(f"Another run has just ended in {staging}: run the same command again.")
        remove_leftovers(staging / "shards")
        remove_leftovers(staging / "receipts")
        yield


def _is_in_place(lock: TextIO) -> bool:
    """Return whether an open lock is still the file of that name: the run that held it may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _make_or_reuse(job: Job, staging: Path, report: Report, workers: Workers, plan: ShardPlan) -> Receipt:
    known = read_receipt(staging, plan.name)
    if known and _still_fail(job, plan, known.failures):
        report(len(plan.indices))
        return known
    receipt = make_shard(job, plan, staging / "shards", report, workers)
    write_receipt(staging, receipt)
    return receipt


def _still_fail(job: Job, plan: ShardPlan, failures: Sequence[Failure]) -> bool:
    """Return whether all images that a shard lacks still cannot be read, for the same reasons."""
    failed = {failure.path for failure in failures}
    images = (read_image(job, plan.split, i) for i in plan.indices if job.source.path(plan.split, i) in failed)
    return set(failures) == {image for image in images if isinstance(image, Failure)}


def check_failures(failures: Sequence[Failure], staging: Path, max_failures: int) -> Path:
    """Write `failures.jsonl` into the staging folder and return its path, if its lines are not too many."""
    record = staging / FAILURES_NAME
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
    record.write_text(lines, encoding="utf-8")
    if len(failures) > max_failures:
        first = f"{failures[0].path} {failures[0].reason}"
        raise InputError(
            f"{counted(len(failures), 'image')} could not be used (first: {first}; all: {record}): "
            f"mend, or accept with --max-failures {len(failures)}; finished shards are kept."
        )
    return record
