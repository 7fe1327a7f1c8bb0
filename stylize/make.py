"""Make one shard: read and decode its images, stylize them, encode the copies, write the tar."""

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from stylize.engine import Pixels
from stylize.errors import InputError
from stylize.job import Failure, Job, Receipt, Report
from stylize.manifest import Flag, ShardEntry
from stylize.pictures import PictureError
from stylize.quality import flag_copies
from stylize.shards import Sample, file_sha256, write_shard
from stylize.spec import ShardPlan, Spec
from stylize.styles import style_choice
from stylize.workers import Workers

CHUNK_IMAGES = 256  # at most so many images in memory at a time,
CHUNK_VALUES = 5_000_000  # and about so many pixel values, copies included: seconds of work, so that Ctrl-C is quick
READ_AHEAD_VALUES = 128_000_000
GUESSED_SIDE = 1000  # of images that keep their own size, to bound how many are read ahead
TASK_VALUES = 50_000  # that a thread decodes or encodes at a time: handing on a tiny picture costs as much
_Encoding = Future[list[tuple[Sample, list[Flag]]]]
_Stylizing = Future[list[_Encoding]]
Item = TypeVar("Item")


def make_shard(job: Job, plan: ShardPlan, folder: Path, report: Report, workers: Workers) -> Receipt:
    """Make one shard under a temporary name, flush and rename it, and return its receipt."""
    failures: list[Failure] = []
    flags: list[Flag] = []
    sources: dict[str, str] = {}
    temporary, final = folder / f"{plan.name}.{os.getpid()}.part", folder / plan.name
    try:
        samples = shard_samples(job, plan, failures, flags, report, workers)
        count = write_shard(temporary, _note_sources(samples, sources), job.spec.codec)
        entry = ShardEntry(plan.name, plan.split, count, temporary.stat().st_size, file_sha256(temporary))
        temporary.rename(final)
    except OSError as error:
        raise InputError(f"{final} cannot be written ({error.strerror}): make room and run the same command.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return Receipt(entry, tuple(failures), tuple(flags), sources)


def _note_sources(samples: Iterable[Sample], sources: dict[str, str]) -> Iterator[Sample]:
    for sample in samples:
        sources[sample.key] = str(sample.metadata["source_sha256"])
        yield sample


@dataclass(frozen=True)
class _Image:
    index: int
    source: bytes
    content: bytes
    pixels: Pixels


def shard_samples(
    job: Job, plan: ShardPlan, failures: list[Failure], flags: list[Flag], report: Report, workers: Workers
) -> Iterator[Sample]:
    """Yield a shard's samples in their order; unusable images go to `failures` instead, what looks wrong to `flags`.

    Some threads run the network; others decode the next images and encode the last copies; the caller writes these.
    Another shard's images wait until the last of this one have gone to the network.
    """
    finished = 0
    working: deque[tuple[Sequence[_Image], list[_Stylizing]]] = deque()
    make = partial(_stylize_batch, job, plan.split, workers.codec)
    images = _read_images(job, plan, failures, workers.codec)
    with workers.turn:
        while chunk := _take_chunk(images, job.spec.styles_per_image):
            working.append((chunk, [workers.network.submit(make, batch) for batch in _batches(job, chunk)]))
            if len(working) > 1 + job.streams // 2:  # enough for many streams: a chunk takes some megabytes only
                yield from _encoded(*working.popleft(), flags, report)
            finished += len(chunk)
    for waiting in working:
        yield from _encoded(*waiting, flags, report)
    if failed := len(plan.indices) - finished:
        report(failed)


def _batches(job: Job, chunk: Sequence[_Image]) -> Iterator[Sequence[_Image]]:
    """Cut a chunk into batches of one shape, with about as many copies as the network takes at a time."""
    by_shape = defaultdict(list)
    for image in chunk:
        by_shape[image.pixels.shape].append(image)
    for (height, width, _), images in by_shape.items():
        size = max(1, job.engine.batch_size(height, width, job.spec.work_size) // job.spec.styles_per_image)
        yield from (images[start : start + size] for start in range(0, len(images), size))


def _stylize_batch(job: Job, split: str, pool: Executor, batch: Sequence[_Image]) -> list[_Encoding]:
    copies = _stylize(job, batch) if split == "train" else [[] for _ in batch]
    made = list(zip(batch, copies, strict=True))
    return [pool.submit(_encode, job, split, task) for task in _tasks(made, batch[0].pixels.size)]


def _tasks(items: Sequence[Item], values: int) -> Iterator[Sequence[Item]]:
    """Cut items of about so many pixel values into tasks for a thread."""
    size = max(1, TASK_VALUES // values)
    return (items[start : start + size] for start in range(0, len(items), size))


def _encoded(
    chunk: Sequence[_Image], stylizing: Sequence[_Stylizing], flags: list[Flag], report: Report
) -> Iterator[Sample]:
    """Yield a chunk's samples in their order, once all are made."""
    encodings = [encoding for batch in stylizing for encoding in batch.result()]
    made = {sample.key: (sample, found) for encoding in encodings for sample, found in encoding.result()}
    for image in chunk:
        sample, found = made[_key(image.index)]
        flags += found
        yield sample
    report(len(chunk))


def _encode(job: Job, split: str, images: Sequence[tuple[_Image, Sequence[Pixels]]]) -> list[tuple[Sample, list[Flag]]]:
    return [
        (_sample(job, split, image, copies), flag_copies(_key(image.index), image.pixels, copies))
        for image, copies in images
    ]


def _take_chunk(images: Iterator[_Image], copies: int) -> list[_Image]:
    """Take the next images up to what memory should hold."""
    chunk: list[_Image] = []
    values = 0
    while len(chunk) < CHUNK_IMAGES and values < CHUNK_VALUES and (image := next(images, None)) is not None:
        chunk.append(image)
        values += image.pixels.size * (1 + copies)
    return chunk


def _read_images(job: Job, plan: ShardPlan, failures: list[Failure], pool: Executor) -> Iterator[_Image]:
    """Yield a shard's usable images in their order, with the next ones already being read."""
    waiting: deque[Future[list[_Image | Failure]]] = deque()
    side = job.spec.size or GUESSED_SIDE
    ahead = max(1, min(CHUNK_IMAGES, READ_AHEAD_VALUES // (3 * side * side)))
    for indices in _tasks(plan.indices, 3 * side * side):
        waiting.append(pool.submit(list, map(partial(_read_image, job, plan.split), indices)))
        if len(waiting) * len(indices) > ahead:
            yield from _usable(waiting.popleft().result(), failures)
    for future in waiting:
        yield from _usable(future.result(), failures)


def _usable(images: Sequence[_Image | Failure], failures: list[Failure]) -> Iterator[_Image]:
    for image in images:
        if isinstance(image, Failure):
            failures.append(image)
        else:
            yield image


def _read_image(job: Job, split: str, index: int) -> _Image | Failure:
    try:
        source = job.source.read(split, index)
        content, pixels = job.codec.read_content(source, job.spec.size)
    except PictureError as error:
        return Failure(split, job.source.path(split, index), str(error))
    return _Image(index, source, content, pixels)


def _key(index: int) -> str:
    return f"{index:08d}"


def _choice(spec: Spec, index: int) -> list[int]:
    return style_choice(spec.seed, _key(index), spec.styles_per_image, len(spec.styles))


def _stylize(job: Job, images: Sequence[_Image]) -> list[list[Pixels]]:
    """Stylize images of one shape and return every image's copies."""
    spec, copies = job.spec, job.spec.styles_per_image
    pixels = np.stack([image.pixels for image in images for _ in range(copies)])
    choice = [style for image in images for style in _choice(spec, image.index)]
    styled = job.engine.stylize(pixels, choice, spec.alpha, spec.work_size)
    return [list(styled[first : first + copies]) for first in range(0, len(styled), copies)]


def _sample(job: Job, split: str, image: _Image, styled: Sequence[Pixels]) -> Sample:
    spec = job.spec
    metadata: dict[str, object] = {
        "source": job.source.path(split, image.index),
        "source_sha256": hashlib.sha256(image.source).hexdigest(),
    }
    if styled:
        metadata |= {"alpha": spec.alpha, "styles": [spec.styles[style].name for style in _choice(spec, image.index)]}
    encoded = tuple(job.codec.encode(Image.fromarray(pixels)) for pixels in styled)
    return Sample(_key(image.index), image.content, encoded, job.source.label(split, image.index), metadata)
