"""What a job will take, from a short probe of parts of its pictures, and advice on the pictures' size."""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stylize.console import InputError, counted
from stylize.jobs.job import Job
from stylize.jobs.make_shard import Findings, SourceImage, read_images, start_workers, stylized_samples
from stylize.jobs.spec import ShardPlan, Spec, plan_shards
from stylize.jobs.stylizers import stylize_copies
from stylize.networks import COLOURS
from stylize.shards import Sample, sample_members
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.verify import BLOCK
from stylize.sources import Source

PROBED_IMAGES = 16  # of a split at least, where there is time
PROBED_SIDE = 512  # pixels; of larger pictures a part is stylized
READ_SECONDS = 2.0  # of a split's probe; of the stylizing as long again to warm up, and twice as long to measure
SMALL_SIDE = 64  # pixels, below which AdaIN at the images' own size leaves little of their shapes
GOOD_WORK_SIZE = 96
LARGE_PIXELS = 2_000_000
LARGE_WORK_SIZE = 512
NETWORK_BYTES = 800e6  # of memory, whatever the picture's size
BYTES_PER_PIXEL = {2: 400, 4: 700}  # of memory at the peak, by the bytes of a number; measured on CPUs


@dataclass(frozen=True)
class Estimate:
    """What a run will make: shards, images, bytes on disk and seconds, and the bytes that are free there now."""

    shards: int
    images: int
    bytes: int
    seconds: float
    free: int


def estimate_run(job: Job, out: Path) -> Estimate:
    """Make the first samples of every split in memory, of large pictures a part, and extrapolate; nothing is written.

    That takes some ten seconds at most, but for the time of the first batch. Raises `InputError` where none of the
    probed images can be used.
    """
    plans = list(plan_shards(job.spec, job.source))
    size, seconds = 0.0, 0.0
    for split in job.source.splits:
        first = next(plan for plan in plans if plan.split == split)
        side = job.spec.size
        images = max(PROBED_IMAGES, _warming_images(job, (side, side)) if side else 0)  # every stream gets a batch
        sample_size, sample_seconds = _probe(job, replace(first, indices=first.indices[:images]))
        size += sample_size * job.spec.counts[split]
        seconds += sample_seconds * job.spec.counts[split]
    free = shutil.disk_usage(next(folder for folder in out.resolve().parents if folder.is_dir())).free
    return Estimate(len(plans), sum(job.spec.counts.values()), round(size), seconds, free)


def _warming_images(job: Job, shape: tuple[int, ...]) -> int:
    copies = job.stylizer.streams * job.stylizer.batch_size(shape[0], shape[1], job.spec.work_size)
    return max(1, copies // job.spec.styles_per_image)


def _probe(job: Job, plan: ShardPlan) -> tuple[float, float]:
    """Return bytes and seconds per sample."""
    found = Findings()
    with start_workers(job.stylizer.streams) as workers:
        started = time.monotonic()
        images = list(_while_time(READ_SECONDS, read_images(job, plan, found, workers.codec)))
        reading = (time.monotonic() - started) / max(len(images), 1)
        parts = [_part(job, image) for image in images]
        warming = parts[: _warming_images(job, parts[0].pixels.shape)] if parts else []
        list(stylized_samples(job, plan.split, _while_time(READ_SECONDS, warming), found, workers))
        timed, started = _while_time(2 * READ_SECONDS, parts), time.monotonic()
        samples = list(stylized_samples(job, plan.split, timed, found, workers))
        stylizing = time.monotonic() - started
    if not samples:
        reason = f"{found.failures[0].path} {found.failures[0].reason}"
        tried = counted(len({failure.path for failure in found.failures}), "image")
        raise InputError(f"Of the first {tried} of {plan.split} none can be used (first: {reason}).")
    whole = {image.key: image.pixels.size for image in images}
    part = {image.key: image.pixels.size for image in parts}
    scales = [whole[sample.key] / part[sample.key] for sample in samples]
    size = sum(_stored_bytes(*pair, job.spec.codec) for pair in zip(samples, scales, strict=True)) / len(samples)
    pixels = sum(whole.values()) / len(whole) / sum(part[sample.key] for sample in samples)
    seconds = stylizing * pixels, reading
    return size, max(seconds) if job.stylizer.device.type == "cuda" else sum(seconds)


def _while_time(seconds: float, images: Iterable[SourceImage]) -> Iterator[SourceImage]:
    """Yield images until so much time is over, at least one."""
    end = time.monotonic() + seconds
    for image in images:
        yield image
        if time.monotonic() > end:
            return


def _part(job: Job, image: SourceImage) -> SourceImage:
    """Return an image with the middle of its pixels, where all of them would go through the networks."""
    if job.spec.work_size is not None or job.spec.transfer == COLOURS or job.spec.stylizer:
        return image
    height, width, _ = image.pixels.shape
    top, left = max(0, height - PROBED_SIDE) // 2, max(0, width - PROBED_SIDE) // 2
    return replace(image, pixels=image.pixels[top : top + PROBED_SIDE, left : left + PROBED_SIDE])


def _stored_bytes(sample: Sample, scale: float, codec: str) -> int:
    """Return what a sample, with copies `scale` times as large, takes in a tar: headers, and payloads in blocks."""
    sizes = [len(payload) for _, payload in sample_members(replace(sample, styled=()), codec)]
    sizes += [round(scale * len(copy)) for copy in sample.styled]
    return sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes)


def size_advice(job: Job) -> str | None:
    """Return advice on `--size` and `--work-size`, judged by the first image; None where it needs none."""
    return small_images_note(job.spec, job.source) or _large_images_note(job)


def small_images_note(spec: Spec, source: Source) -> str | None:
    """Return advice where small images would be stylized at their own size, judged by the first; None for others."""
    side = min(_working_shape(spec, source) or [SMALL_SIDE])
    if side >= SMALL_SIDE:
        return None
    advice = f"--work-size {GOOD_WORK_SIZE} keeps more, and classifiers learn more from it"
    return f"Stylizing images of {side} pixels at their own size leaves little of their shapes: {advice}."


def _working_shape(spec: Spec, source: Source) -> tuple[int, int] | None:
    """Return width and height at which the networks work; None with `--work-size`, without networks, or for no image.

    An image that cannot be used will be named as a failure.
    """
    if spec.work_size is not None or spec.transfer == COLOURS or spec.stylizer:
        return None
    try:
        return (spec.size, spec.size) if spec.size else decode_picture(source.read(source.splits[0], 0)).size
    except PictureError:
        return None


def _large_images_note(job: Job) -> str | None:
    """Return what large images will take at their own size, and what they would take at a smaller one."""
    shape = _working_shape(job.spec, job.source)
    if shape is None or shape[0] * shape[1] <= LARGE_PIXELS:
        return None
    picture = np.random.default_rng(0).integers(0, 256, (PROBED_SIDE, PROBED_SIDE, 3), np.uint8)
    one_copy = replace(job.spec, styles_per_image=1)
    for _ in range(2):  # the first warms up
        started = time.monotonic()
        stylize_copies(job.stylizer, one_copy, [("", "", picture)])
    rate = (time.monotonic() - started) / PROBED_SIDE**2
    bytes_per_pixel = BYTES_PER_PIXEL[2 if job.stylizer.dtype_name != "float32" else 4]
    pixels = shape[0] * shape[1], round(LARGE_WORK_SIZE**2 * max(shape) / min(shape))
    (seconds, memory), (less, little) = ((rate * count, NETWORK_BYTES + bytes_per_pixel * count) for count in pixels)
    copies = job.spec.counts["train"] * job.spec.styles_per_image
    return (
        f"Stylizing pictures of {shape[0]}×{shape[1]} pixels at their own size takes about {seconds:.1f} s and "
        f"{memory / 1e9:.1f} GB of memory each, {seconds * copies / 60:.0f} min in all: "
        f"--work-size {LARGE_WORK_SIZE} takes about {less:.1f} s and {little / 1e9:.1f} GB, "
        f"and --size {LARGE_WORK_SIZE} stores small pictures too."
    )
