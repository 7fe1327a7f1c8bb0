"""Run a job on this machine, whole or in parts of a job array, with progress and estimates."""

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from stylize.console import InputError, counted
from stylize.files import write_atomically
from stylize.jobs.job import Failure, Job, Receipt, Report
from stylize.jobs.make_shard import Workers, make_shard, read_image, shard_samples, small_images_note, start_workers
from stylize.jobs.output import (
    STAGING,
    accepted,
    adopt_shards,
    check_max_failures,
    collect_manifest,
    compares_hashes,
    current_receipt,
    damaged_files,
    find_finished,
    find_folder,
    locked_shard,
    locked_staging,
    missing_receipts,
    needs_retry,
    plain_spec,
    publish,
    read_receipt,
    read_receipts,
    remove_staging,
    staging_folder,
    too_many_failures,
    write_receipt,
)
from stylize.jobs.spec import ShardPlan, Spec, plan_shards, shard_sizes
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from stylize.shards.shard import Sample, sample_members
from stylize.shards.verify import BLOCK
from stylize.sources.source import Source


def make_locally(job: Job, report: Report, staging: Path, plans: Iterable[ShardPlan]) -> list[tuple[Failure, ...]]:
    """Make the shards that are not finished; `report` is called from one thread at a time.

    Returns the images that could not be used, for every shard.
    """
    with start_workers(job.stylizer.streams) as workers:
        make = partial(make_or_reuse, job, staging, _one_at_a_time(report), workers)
        return [receipt.failures for receipt in workers.shards.map(make, plans)]


def _one_at_a_time(report: Report) -> Report:
    """Return a function that calls `report` from one thread at a time."""
    lock = Lock()

    def report_alone(images: int) -> None:
        with lock:
            report(images)

    return report_alone


def make_or_reuse(job: Job, staging: Path, report: Report, workers: Workers, plan: ShardPlan) -> Receipt:
    """Return the receipt of a shard, made now unless it is finished and agrees with the source."""
    with locked_shard(staging, plan.name):
        known = current_receipt(job.spec, job.source, plan, staging)
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


Notice = Callable[[str], None]
MakeAll = Callable[[Path, Iterator[ShardPlan]], object]  # makes the shards that are not finished in the staging folder


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
    `report` receives numbers of finished images, from any thread but never from two at once; `notice` receives,
    in a sentence, what was found in a finished folder, or advice on small images.

    Raises:
        InputError: `out` holds something else or cannot be written, another run is at work, or more than
            `max_failures` images could not be used (what was made is kept for a rerun with a higher limit).
    """
    make_all = partial(make_locally, job, report)
    return run_job(job.spec, job.source, make_all, out, max_failures, retry_failed, notice)


def run_job(
    spec: Spec, source: Source, make_all: MakeAll, out: Path, max_failures: int, retry_failed: bool, notice: Notice
) -> Manifest:
    """Do as `make_shards`, with an engine that makes the shards."""
    check_max_failures(max_failures)
    out = out.resolve()  # a link to a folder could not be renamed onto
    finished = find_finished(out, spec, other_images=retry_failed)
    staging = staging_folder(out, spec)
    try:
        if finished and not staging.exists() and not _needs_work(finished, spec, out, retry_failed, notice):
            return accepted(finished, out, max_failures)
        with locked_staging(staging):
            finished = find_finished(out, spec, other_images=retry_failed)  # maybe by another run, until just now
            if finished and not _needs_work(finished, spec, out, retry_failed, notice):
                remove_staging(staging)
                return accepted(finished, out, max_failures)
            if finished:
                adopt_shards(spec, source, finished, out, staging)
            elif advice := small_images_note(spec, source):
                notice(advice)
            make_all(staging, plan_shards(spec, source))
            read = partial(read_receipts, staging, shard_sizes(spec.counts, spec.samples_per_shard))
            manifest = collect_manifest(read, plain_spec(spec), source.ignored, staging, max_failures)
            publish(manifest, staging, out, replace=finished is not None)
            return manifest
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def _needs_work(finished: Manifest, spec: Spec, out: Path, retry_failed: bool, notice: Notice) -> bool:
    """Return whether a finished folder is to be made anew from its whole shards, and say what was found."""
    if damaged := damaged_files(finished, out):
        notice(f"{out}: damaged or missing, made again: {', '.join(damaged)}")
        return True
    if needs_retry(finished, spec, retry_failed):
        return True
    compared = "sizes and SHA-256" if compares_hashes(finished) else "sizes (`stylize verify` reads everything)"
    notice(f"{out}: finished already, {compared} as recorded")
    return False


_RECORD_NAME = "job.json"  # what `publish_parts` needs to know, so that it needs neither images nor networks


@dataclass(frozen=True)
class Part:
    """The `number`-th of `count` parts of a job's shards, counted from 1: every count-th shard."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"--only is {self.number}/{self.count}: give a part from 1/{self.count} on.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def images(self, spec: Spec) -> int:
        """Return how many images the part is made of."""
        sizes = shard_sizes(spec.counts, spec.samples_per_shard)
        return sum(islice(sizes.values(), self.number - 1, None, self.count))


def parse_part(text: str) -> Part:
    """Return the part that `3/16` names."""
    number, slash, count = text.partition("/")
    if not slash or not (number.isdecimal() and count.isdecimal()):
        raise InputError(f"--only is {text!r}: give part and number of parts, as 3/16.")
    return Part(int(number), int(count))


def make_part(
    job: Job,
    out: Path,
    part: Part,
    max_failures: int = 0,
    report: Report = lambda images: None,
    notice: Notice = lambda sentence: None,
) -> int:
    """Make a part of a job's shards for the folder `out` and return how many of the part are finished: all of them.

    Any number of processes may do so at once, on machines that share the folder beside `out`; each shard is made by
    one of them, and finished ones are not made again. `publish_parts` must follow when all parts are finished.
    `report` and `notice` are as in `make_shards`.

    Raises:
        InputError: `out` holds something else or damaged shards, or cannot be written; the whole job is being made or
            published; or more than `max_failures` images of this part could not be used (its shards are kept).
    """
    check_max_failures(max_failures)
    out = out.resolve()
    plans = list(islice(plan_shards(job.spec, job.source), part.number - 1, None, part.count))
    if finished := find_finished(out, job.spec):
        if damaged := damaged_files(finished, out):
            raise InputError(f"{out} is damaged ({', '.join(damaged)}): run the same command without --only.")
        return len(plans)
    staging = staging_folder(out, job.spec)
    try:
        with locked_staging(staging, shared=True):
            if find_finished(out, job.spec):  # published until just now
                remove_staging(staging)
                return len(plans)
            _write_record(job, out, staging)
            if advice := small_images_note(job.spec, job.source):
                notice(advice)
            failures = [failure for shard in make_locally(job, report, staging, plans) for failure in shard]
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None
    if len(failures) > max_failures:
        raise too_many_failures(failures, f"part {part}")
    return len(plans)


def _write_record(job: Job, out: Path, staging: Path) -> None:
    record = {"out": out.name, "spec": plain_spec(job.spec), "left_out": dict(job.source.ignored)}
    payload = json.dumps(record).encode()
    path = staging / _RECORD_NAME
    if not path.is_file() or path.read_bytes() != payload:
        write_atomically(path, payload)


def publish_parts(out: Path, max_failures: int = 0) -> Manifest:
    """Publish the folder `out` from the finished parts of its job; where that has been done, return its manifest.

    Raises:
        InputError: there are no parts, some shards are missing, parts are being made, or more than `max_failures`
            images could not be used.
    """
    check_max_failures(max_failures)
    out = out.resolve()
    records = dict(_records(out))
    if not records and (out / MANIFEST_NAME).is_file():
        return accepted(read_manifest(out), out, max_failures)
    staging = _only_one(records, out)
    try:
        with locked_staging(staging):
            return _publish_record(records[staging], staging, out, max_failures)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def _records(out: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the staging folders of parts for `out`, and what their jobs are."""
    for path in sorted((out.parent / STAGING).glob(f"*/{_RECORD_NAME}")):
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:  # published just now
            continue
        if record["out"] == out.name:
            yield path.parent, record


def _only_one(records: Mapping[Path, Mapping[str, Any]], out: Path) -> Path:
    if not records:
        raise InputError(f"{out} has no parts to publish: run `stylize shards --only 1/N` with this --out, and so on.")
    specs = [record["spec"] for record in records.values()]
    if len(records) > 1:
        values = "; ".join(
            f"{name}: {', '.join(str(spec.get(name)) for spec in specs)}"
            for name in sorted(set().union(*specs))
            if any(spec.get(name) != specs[0].get(name) for spec in specs)
        )
        folders = ", ".join(str(staging) for staging in records)
        raise InputError(
            f"{out} has parts of {len(records)} jobs, which differ ({values}): their shards do not go together; "
            f"remove the wrong one of {folders}."
        )
    return next(iter(records))


def _publish_record(record: Mapping[str, Any], staging: Path, out: Path, max_failures: int) -> Manifest:
    spec = record["spec"]
    if finished := find_folder(out, spec):  # by another run, until just now
        remove_staging(staging)
        return accepted(finished, out, max_failures)
    names = shard_sizes(spec["counts"], spec["samples_per_shard"])
    if missing := missing_receipts(names, partial(read_receipt, staging), spec["source_fingerprint"]):
        raise InputError(
            f"{counted(len(missing), 'shard')} of {len(names)} are missing (first: {missing[0]}): "
            "run the parts again that did not end well."
        )
    manifest = collect_manifest(partial(read_receipts, staging, names), spec, record["left_out"], staging, max_failures)
    publish(manifest, staging, out, replace=False)
    return manifest


PLAIN_LINE_SECONDS = 30.0
PACE_SECONDS = 30.0  # a pace is that of the last so many: shards of an earlier run are counted at once


@dataclass(frozen=True)
class Effort:
    """What images cost: FLOPs for each of the first `stylized`, none for the others, and the machine's FLOP/s or 0."""

    flops_per_image: int
    stylized: int
    machine_rate: float = 0.0

    def flops(self, images: int) -> int:
        """Return the FLOPs of the first images."""
        return min(images, self.stylized) * self.flops_per_image


class _Pace:
    """Times at which numbers of images were done, of the last seconds and at least two of them."""

    def __init__(self, start: float) -> None:
        self.samples = deque([(start, 0)])

    def add(self, now: float, done: int) -> None:
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[1][0] >= PACE_SECONDS:
            self.samples.popleft()

    def describe(self, total: int, effort: Effort | None) -> str:
        """Return images/s, FLOP/s with their share of the machine's rate, and the time left."""
        (first, before), (last, done) = self.samples[0], self.samples[-1]
        seconds = max(last - first, 1e-9)
        pace = (done - before) / seconds
        text = f"{pace:.1f} images/s"
        if effort and (rate := (effort.flops(done) - effort.flops(before)) / seconds):
            text += f", {rate / 1e9:.0f} GFLOP/s"
            text += f" ({rate / effort.machine_rate:.0%} of the machine's rate)" if effort.machine_rate else ""
        return f"{text}, {(total - done) / pace / 60:.1f} min left" if pace else text


@contextmanager
def images_progress(console: Console, title: str, total: int, effort: Effort | None = None) -> Iterator[Report]:
    """Show images done, images/s, achieved FLOP/s where the effort is known, and time left.

    Yields the function that receives numbers of finished images, from one thread at a time.  Nothing is left of the
    line where the work fails or there was none.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, pace="")
        pace = _Pace(console.get_time())
        spoken = time.monotonic()
        done = 0

        def report(images: int) -> None:
            nonlocal done, spoken
            done += images
            pace.add(console.get_time(), done)
            text = pace.describe(total, effort)
            progress.update(task, completed=done, pace=text)
            if not console.is_terminal and time.monotonic() - spoken > PLAIN_LINE_SECONDS:
                spoken = time.monotonic()
                console.print(f"{title}: {done}/{total}, {text}")

        progress.live.transient = True
        yield report
        progress.live.transient = done == 0


PROBED_IMAGES = 16  # at least


@dataclass(frozen=True)
class Estimate:
    """What a run will make: shards, images, bytes on disk and seconds, and the bytes that are free there now."""

    shards: int
    images: int
    bytes: int
    seconds: float
    free: int


def estimate_run(job: Job, out: Path) -> Estimate:
    """Make the first samples of every split in memory and extrapolate; nothing is written.

    Raises `InputError` where none of the probed images can be used.
    """
    plans = list(plan_shards(job.spec, job.source))
    size, seconds = 0.0, 0.0
    for split in job.source.splits:
        first = next(plan for plan in plans if plan.split == split)
        sample_size, sample_seconds = _probe(job, replace(first, indices=first.indices[: _probed_images(job)]))
        size += sample_size * job.spec.counts[split]
        seconds += sample_seconds * job.spec.counts[split]
    free = shutil.disk_usage(next(folder for folder in out.resolve().parents if folder.is_dir())).free
    return Estimate(len(plans), sum(job.spec.counts.values()), round(size), seconds, free)


def _probed_images(job: Job) -> int:
    """Return how many images give every stream a batch."""
    side, work_size = job.spec.size or 0, job.spec.work_size
    copies = job.stylizer.streams * job.stylizer.batch_size(side, side, work_size) if side else 0
    return max(PROBED_IMAGES, copies // job.spec.styles_per_image)


def _probe(job: Job, plan: ShardPlan) -> tuple[float, float]:
    """Return bytes and seconds per sample."""
    failures: list[Failure] = []
    with start_workers(job.stylizer.streams) as workers:
        for _ in range(2):  # the first run warms up
            started = time.monotonic()
            samples = shard_samples(job, plan, failures, [], _nobody, workers)
            sizes = [_stored_bytes(sample, job.spec.codec) for sample in samples]
            seconds = time.monotonic() - started
    if not sizes:
        first, tried = failures[0], counted(len(plan.indices), "image")
        reason = f"{first.path} {first.reason}"
        raise InputError(f"Of the first {tried} of {plan.split} none can be used (first: {reason}).")
    return sum(sizes) / len(sizes), seconds / len(sizes)


def _nobody(_images: int) -> None:
    """Report to nobody."""


def _stored_bytes(sample: Sample, codec: str) -> int:
    """Return what a sample takes in a tar: a header a member, and payloads padded to whole blocks."""
    return sum(BLOCK + -(-len(payload) // BLOCK) * BLOCK for _, payload in sample_members(sample, codec))
