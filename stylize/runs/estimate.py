"""`stylize shards --dry-run`: how many shards, how much disk and how long, from a probe of a few images."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from stylize.errors import InputError
from stylize.runs.job import Failure, Job
from stylize.runs.make import shard_samples
from stylize.runs.spec import ShardPlan, plan_shards
from stylize.runs.workers import start_workers
from stylize.shards.format import Sample, sample_members
from stylize.shards.tar_scan import BLOCK
from stylize.wording import counted

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
    copies = job.engine.streams * job.engine.batch_size(side, side, work_size) if side else 0
    return max(PROBED_IMAGES, copies // job.spec.styles_per_image)


def _probe(job: Job, plan: ShardPlan) -> tuple[float, float]:
    """Return bytes and seconds per sample."""
    failures: list[Failure] = []
    with start_workers(job.engine.streams) as workers:
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
