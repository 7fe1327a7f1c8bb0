"""Make one shard: read and decode its images, stylize them, encode the copies, write the tar."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, nullcontext
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np

from stylize.atomic import temporary_path
from stylize.engine.engine import Pixels
from stylize.engine.styles import style_choice
from stylize.errors import InputError
from stylize.runs.job import Failure, Job, Receipt, Report
from stylize.runs.quality import flag_copies
from stylize.runs.reading import CHUNK_IMAGES, SourceImage, cut_tasks, read_images
from stylize.runs.spec import ShardPlan, Spec
from stylize.runs.workers import Workers
from stylize.shards.format import Sample, file_sha256, write_shard
from stylize.shards.manifest import Flag, ShardEntry
from stylize.sources.pictures import PictureError

CHUNK_VALUES = 5_000_000  # pixel values, copies included, that go to the network together: a second or two of work
BATCHES_AHEAD = 6  # for every stream but the first, so that none waits while a chunk is being written
_Result = tuple[Sample | Failure, list[Flag]]
_Encoding = Future[dict[int, _Result]]
_Stylizing = Future[list[_Encoding]]


def make_shard(job: Job, plan: ShardPlan, folder: Path, report: Report, workers: Workers) -> Receipt:
    """Make one shard under a temporary name, flush and rename it, and return its receipt."""
    failures: list[Failure] = []
    flags: list[Flag] = []
    sources: dict[str, str] = {}
    final = folder / plan.name
    temporary = temporary_path(final)
    try:
        # Closed, because it may hold the turn when writing fails, and the error keeps it alive.
        with closing(shard_samples(job, plan, failures, flags, report, workers)) as samples:
            count = write_shard(temporary, _note_sources(samples, sources), job.spec.codec)
        entry = ShardEntry(plan.name, plan.split, count, temporary.stat().st_size, file_sha256(temporary))
        temporary.rename(final)
    except OSError as error:
        raise InputError(f"{final} cannot be written ({error.strerror}): make room and run the same command.") from None
    finally:
        temporary.unlink(missing_ok=True)
    ordered = tuple(sorted(failures, key=attrgetter("path")))
    return Receipt(entry, ordered, tuple(flags), sources, job.spec.source_fingerprint)


def _note_sources(samples: Iterable[Sample], sources: dict[str, str]) -> Iterator[Sample]:
    for sample in samples:
        sources[sample.key] = str(sample.metadata["source_sha256"])
        yield sample


def shard_samples(
    job: Job, plan: ShardPlan, failures: list[Failure], flags: list[Flag], report: Report, workers: Workers
) -> Generator[Sample, None, None]:
    """Yield a shard's samples in their order; unusable images go to `failures` instead, what looks wrong to `flags`.

    Some threads run the network; others decode the next images and encode the last copies; the caller writes these.
    Another shard's images wait until the last of this one have gone to the network.
    """
    finished = 0
    working: deque[tuple[Sequence[SourceImage], list[_Stylizing]]] = deque()
    make = partial(_stylize_batch, job, plan.split, workers)
    images = read_images(job, plan, failures, workers.codec)
    ahead = BATCHES_AHEAD * (workers.streams - 1)
    with workers.turn:
        while chunk := _take_chunk(images, job.spec.styles_per_image):
            working.append((chunk, [workers.network.submit(make, batch) for batch in _batches(job, chunk)]))
            while len(working) > 1 and sum(len(batches) for _, batches in working) > ahead:
                yield from _encoded(*working.popleft(), failures, flags, report)
            finished += len(chunk)
    for waiting in working:
        yield from _encoded(*waiting, failures, flags, report)
    if failed := len(plan.indices) - finished:
        report(failed)


def _batches(job: Job, chunk: Sequence[SourceImage]) -> Iterator[Sequence[SourceImage]]:
    """Cut a chunk into batches of one shape, with about as many copies as the network takes at a time."""
    by_shape = defaultdict(list)
    for image in chunk:
        by_shape[image.pixels.shape].append(image)
    for (height, width, _), images in by_shape.items():
        size = max(1, job.engine.batch_size(height, width, job.spec.work_size) // job.spec.styles_per_image)
        yield from (images[start : start + size] for start in range(0, len(images), size))


def _stylize_batch(job: Job, split: str, workers: Workers, batch: Sequence[SourceImage]) -> list[_Encoding]:
    height, width, _ = batch[0].pixels.shape
    large = split == "train" and job.engine.is_large(height, width, job.spec.work_size)
    with workers.all_threads() if large else nullcontext():
        copies = _stylize(job, batch) if split == "train" else [[] for _ in batch]
    made = list(zip(batch, copies, strict=True))
    return [workers.codec.submit(_encode, job, split, task) for task in cut_tasks(made, batch[0].pixels.size)]


def _encoded(
    chunk: Sequence[SourceImage],
    stylizing: Sequence[_Stylizing],
    failures: list[Failure],
    flags: list[Flag],
    report: Report,
) -> Iterator[Sample]:
    """Yield a chunk's samples in their order, once all are made."""
    encodings = [encoding for batch in stylizing for encoding in batch.result()]
    made = {index: result for encoding in encodings for index, result in encoding.result().items()}
    for image in chunk:
        result, found = made[image.index]
        flags += found
        if isinstance(result, Failure):
            failures.append(result)
        else:
            yield result
    report(len(chunk))


def _encode(job: Job, split: str, images: Sequence[tuple[SourceImage, Sequence[Pixels]]]) -> dict[int, _Result]:
    return {image.index: _make_sample(job, split, image, copies) for image, copies in images}


def _make_sample(job: Job, split: str, image: SourceImage, copies: Sequence[Pixels]) -> _Result:
    try:
        sample = _sample(job, split, image, copies)
    except PictureError as error:
        return Failure(split, job.source.path(split, image.index), f"copy {error}"), []
    source = job.source.path(split, image.index)
    warned = [Flag(split, sample.key, f"{source}: {text}") for text in image.warnings]
    return sample, [*warned, *flag_copies(sample.key, image.pixels, copies)]


def _take_chunk(images: Iterator[SourceImage], copies: int) -> list[SourceImage]:
    """Take the next images up to what memory should hold."""
    chunk: list[SourceImage] = []
    values = 0
    while len(chunk) < CHUNK_IMAGES and values < CHUNK_VALUES and (image := next(images, None)) is not None:
        chunk.append(image)
        values += image.pixels.size * (1 + copies)
    return chunk


def _key(index: int) -> str:
    return f"{index:08d}"


def _choice(spec: Spec, index: int) -> list[int]:
    return style_choice(spec.seed, _key(index), spec.styles_per_image, len(spec.styles))


def _stylize(job: Job, images: Sequence[SourceImage]) -> list[list[Pixels]]:
    """Stylize images of one shape and return every image's copies."""
    spec, copies = job.spec, job.spec.styles_per_image
    pixels = np.stack([image.pixels for image in images for _ in range(copies)])
    choice = [style for image in images for style in _choice(spec, image.index)]
    styled = job.engine.stylize(pixels, choice, spec.alpha, spec.work_size, spec.transfer)
    return [list(styled[first : first + copies]) for first in range(0, len(styled), copies)]


def _sample(job: Job, split: str, image: SourceImage, styled: Sequence[Pixels]) -> Sample:
    spec = job.spec
    metadata: dict[str, object] = {
        "source": job.source.path(split, image.index),
        "source_sha256": hashlib.sha256(image.source).hexdigest(),
    }
    if styled:
        metadata |= {"alpha": spec.alpha, "styles": [spec.styles[style].name for style in _choice(spec, image.index)]}
    encoded = tuple(job.codec.encode(pixels) for pixels in styled)
    return Sample(_key(image.index), image.content, encoded, job.source.label(split, image.index), metadata)
