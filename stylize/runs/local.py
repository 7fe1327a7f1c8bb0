"""The engine `local`: this process makes a job's shards, one after the other, in the staging folder."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

from stylize.runs.job import Failure, Job, Receipt, Report
from stylize.runs.make import make_shard
from stylize.runs.reading import read_image
from stylize.runs.receipts import current_receipt, write_receipt
from stylize.runs.spec import ShardPlan
from stylize.runs.staging import locked_shard
from stylize.runs.workers import Workers, start_workers


def make_locally(job: Job, report: Report, staging: Path, plans: Iterable[ShardPlan]) -> list[tuple[Failure, ...]]:
    """Make the shards that are not finished; `report` is called from one thread at a time.

    Returns the images that could not be used, for every shard.
    """
    with start_workers(job.engine.streams) as workers:
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
