"""A job's shards made on this machine, whole or, in a job array, in parts that `publish_parts` joins."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

from stylize.jobs.estimate import size_advice
from stylize.jobs.job import Failure, Job
from stylize.jobs.make_shard import Workers, make_shard, read_image, start_workers
from stylize.jobs.output import (
    accepted,
    check_max_failures,
    damaged_files,
    has_full_check,
    locked_shard,
    make_output,
)
from stylize.jobs.receipts import (
    Receipt,
    adopt_shards,
    current_receipt,
    publish_receipts,
    write_receipt,
)
from stylize.jobs.spec import ShardPlan, Spec, plan_shards
from stylize.progress import Report
from stylize.shards.manifest import Manifest
from stylize.sources.source import Source

RECORD_NAME = "job.json"  # what `publish_parts` needs to know, so that it needs neither images nor networks
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
    in a sentence, what was found in a finished folder, or advice on the images' size.

    Raises:
        InputError: `out` holds something else or cannot be written, another run is at work, or more than
            `max_failures` images could not be used (what was made is kept for a rerun with a higher limit).
    """
    make_all = partial(make_locally, job, report)
    return run_job(job.spec, job.source, make_all, out, max_failures, retry_failed, notice, partial(size_advice, job))


def run_job(
    spec: Spec,
    source: Source,
    make_all: MakeAll,
    out: Path,
    max_failures: int,
    retry_failed: bool,
    notice: Notice,
    advise: Callable[[], str | None],
) -> Manifest:
    """Do as `make_shards`, with an executor that makes the shards; `advise` is asked before a new folder is made."""
    check_max_failures(max_failures)
    document = spec.document()

    def keep(finished: Manifest) -> Manifest | None:
        if needs_work(finished, spec, out, retry_failed, notice):
            return None
        return accepted(finished, out, max_failures)

    def make(staging: Path, finished: Manifest | None) -> Manifest:
        if finished:
            adopt_shards(spec, source, finished, out.resolve(), staging)
        elif advice := advise():
            notice(advice)
        make_all(staging, plan_shards(spec, source))
        replace = finished is not None
        return publish_receipts(document, source.ignored, staging, out.resolve(), max_failures, replace=replace)

    return make_output(out, document, make, keep, other_images=retry_failed)


def needs_work(
    finished: Manifest, spec: Spec, out: Path, retry_failed: bool, notice: Notice = lambda sentence: None
) -> bool:
    """Return whether a finished folder is to be made anew from its whole shards, and say what was found."""
    if damaged := damaged_files(finished, out):
        notice(f"{out}: damaged or missing, made again: {', '.join(damaged)}")
        return True
    if retry_failed and (finished.failures > 0 or finished.spec != spec.document()):
        return True
    compared = "sizes and SHA-256" if has_full_check(finished) else "sizes (`stylize verify` reads everything)"
    notice(f"{out}: finished already, {compared} as recorded")
    return False


def make_locally(job: Job, report: Report, staging: Path, plans: Iterable[ShardPlan]) -> list[Failure]:
    """Make the shards that are not finished; return the images of all of them that could not be used."""
    lock = Lock()

    def report_alone(images: int) -> None:
        with lock:
            report(images)

    with start_workers(job.stylizer.streams) as workers:
        make = partial(make_or_reuse, job, staging, report_alone, workers)
        return [failure for receipt in workers.shards.map(make, plans) for failure in receipt.failures]


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
