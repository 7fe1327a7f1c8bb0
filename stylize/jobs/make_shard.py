"""Make one shard: read ahead, stylize, encode, check the copies, write the tar."""

import gc
import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch

from stylize.console import InputError, Report, silent
from stylize.files import file_sha256, temporary_path
from stylize.jobs.job import Failure, Job
from stylize.jobs.output import Receipt
from stylize.jobs.spec import ShardPlan, draw_copies
from stylize.jobs.stylizers import stylize_copies
from stylize.networks.stylizer import Pixels
from stylize.shards import Sample, write_shard
from stylize.shards.decode import PictureError
from stylize.shards.manifest import Flag, ShardEntry

CHUNK_IMAGES = 256  # at most so many are read ahead, or go to the network together
READ_AHEAD_VALUES = 128_000_000
GUESSED_SIDE = 1000  # of images that keep their own size, to bound how many are read ahead
TASK_VALUES = 50_000  # that a thread decodes or encodes at a time: handing on a tiny picture costs as much
CHUNK_VALUES = 5_000_000  # pixel values, copies included, that go to the network together: a second or two of work
BATCHES_AHEAD = 6  # for every stream but the first, so that none waits while a chunk is being written
# In 8-bit grey levels; copies by the shipped decoder differ from their content by 45 and more, and vary by 30 and more.
MIN_DIFFERENCE = 3.0
MIN_STD = 3.0
Item = TypeVar("Item")
_Made = tuple[int, Sample | Failure, list[Flag]]  # the image's index first
_Encoding = Future[list[_Made]]
_Stylizing = Future[list[_Encoding]]


@dataclass(frozen=True)
class SourceImage:
    """An image as it was read, as it will be stored, its pixels (H, W, 3), and what looked wrong in decoding it."""

    index: int
    source: bytes
    content: bytes
    pixels: Pixels
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the image as it was read."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def key(self) -> str:
        """Return the key of the image's sample."""
        return f"{self.index:08d}"


@dataclass(frozen=True)
class Workers:
    """Executors that all shards of a run share: new threads for every shard would leave their memory arenas behind."""

    streams: int  # threads of the network
    threads: int  # of PyTorch, which the streams share
    network: Executor
    codec: Executor
    shards: Executor  # two, so that the network goes on while the end of a shard is being written
    turn: Lock = field(default_factory=Lock)  # of the shard whose images go to the network
    alone: Lock = field(default_factory=Lock)  # of the stream that has all threads

    @contextmanager
    def all_threads(self) -> Iterator[None]:
        """Give the calling stream all threads for a large picture; another's waits, so that memory holds one."""
        with self.alone:
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                torch.set_num_threads(max(1, self.threads // self.streams))


@dataclass(frozen=True)
class Findings:
    """What is known of a shard's images, with the sources' SHA-256 by key, and who is told how many are done."""

    report: Report = silent
    failures: list[Failure] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)


@contextmanager
def start_workers(streams: int) -> Iterator[Workers]:
    """Yield the executors, the network's with `streams` threads; an interruption drops what waits in them.

    Every stream has its share of PyTorch's threads, at best one: streams do not wait for each other, whereas all
    threads of one operation wait for the one whose core has just decoded a picture.
    """
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    network = ThreadPoolExecutor(streams, initializer=_use_threads, initargs=(max(1, threads // streams),))
    workers = Workers(streams, threads, network, ThreadPoolExecutor(cores), ThreadPoolExecutor(2))
    gc.freeze()  # what is loaded stays: garbage collections among thousands of pictures need not walk through it
    try:
        yield workers
    finally:
        workers.shards.shutdown(wait=False, cancel_futures=True)
        workers.network.shutdown(cancel_futures=True)  # before the next, because it submits to it
        workers.codec.shutdown(cancel_futures=True)
        workers.shards.shutdown()
        gc.unfreeze()
        torch.set_num_threads(threads)  # of threads yet to start: the streams' share had become their default


def _use_threads(share: int) -> None:
    """Set a new thread's share of PyTorch's threads; its first question makes PyTorch set its default, so before."""
    torch.get_num_threads()
    torch.set_num_threads(share)


def make_shard(job: Job, plan: ShardPlan, folder: Path, report: Report, workers: Workers) -> Receipt:
    """Make one shard under a temporary name, flush and rename it, and return its receipt."""
    found, final = Findings(report), folder / plan.name
    temporary = temporary_path(final)
    images = read_images(job, plan, found, workers.codec)
    try:
        # Closed, because it may hold the turn when writing fails, and the error keeps it alive.
        with closing(stylized_samples(job, plan.split, images, found, workers)) as samples:
            count = write_shard(temporary, samples, job.spec.codec)
        entry = ShardEntry(plan.name, plan.split, count, temporary.stat().st_size, file_sha256(temporary))
        temporary.rename(final)
    except OSError as error:
        raise InputError(f"{final} cannot be written ({error.strerror}): make room and run the same command.") from None
    finally:
        temporary.unlink(missing_ok=True)
    ordered = tuple(sorted(found.failures, key=attrgetter("path")))
    return Receipt(entry, ordered, tuple(found.flags), found.sources, job.spec.source_fingerprint)


def read_images(job: Job, plan: ShardPlan, found: Findings, pool: Executor) -> Iterator[SourceImage]:
    """Yield a shard's usable images in their order, with the next ones already being read; note and report others."""
    for image in _read_ahead(job, plan, pool):
        if isinstance(image, Failure):
            found.failures.append(image)
            found.report(1)
        else:
            yield image


def _read_ahead(job: Job, plan: ShardPlan, pool: Executor) -> Iterator[SourceImage | Failure]:
    waiting: deque[Future[list[SourceImage | Failure]]] = deque()
    values = 3 * (job.spec.size or GUESSED_SIDE) ** 2
    ahead = max(1, min(CHUNK_IMAGES, READ_AHEAD_VALUES // values))
    for indices in _cut_tasks(plan.indices, values):
        waiting.append(pool.submit(list, map(partial(read_image, job, plan.split), indices)))
        if len(waiting) * len(indices) > ahead:
            yield from waiting.popleft().result()
    for future in waiting:
        yield from future.result()


def _cut_tasks(items: Sequence[Item], values: int) -> Iterator[Sequence[Item]]:
    """Cut items of about so many pixel values into tasks for a thread."""
    size = max(1, TASK_VALUES // values)
    return (items[start : start + size] for start in range(0, len(items), size))


def read_image(job: Job, split: str, index: int) -> SourceImage | Failure:
    """Read and decode one image, or say why it cannot be used."""
    try:
        source = job.source.read(split, index)
        content = job.codec.read_content(source, job.spec.size)
    except PictureError as error:
        return Failure(split, job.source.path(split, index), str(error))
    return SourceImage(index, source, *content)


def stylized_samples(
    job: Job, split: str, images: Iterator[SourceImage], found: Findings, workers: Workers
) -> Generator[Sample, None, None]:
    """Yield the images' samples in their order; unusable copies and what looks wrong go to `found`.

    Some threads run the network; others decode the next images and encode the last copies; the caller writes these.
    Another shard's images wait until the last of this one have gone to the network.
    """
    working: deque[tuple[Sequence[SourceImage], list[_Stylizing]]] = deque()
    make = partial(_stylize_batch, job, split, workers)
    ahead = BATCHES_AHEAD * (workers.streams - 1)
    with workers.turn:
        while chunk := _take_chunk(images, job.spec.styles_per_image):
            working.append((chunk, [workers.network.submit(make, batch) for batch in _batches(job, chunk)]))
            while len(working) > 1 and sum(len(batches) for _, batches in working) > ahead:
                yield from _encoded(*working.popleft(), found)
    for waiting in working:
        yield from _encoded(*waiting, found)


def _take_chunk(images: Iterator[SourceImage], copies: int) -> list[SourceImage]:
    """Take the next images up to what memory should hold."""
    chunk: list[SourceImage] = []
    values = 0
    while len(chunk) < CHUNK_IMAGES and values < CHUNK_VALUES and (image := next(images, None)) is not None:
        chunk.append(image)
        values += image.pixels.size * (1 + copies)
    return chunk


def _batches(job: Job, chunk: Sequence[SourceImage]) -> Iterator[Sequence[SourceImage]]:
    """Cut a chunk into batches of one shape, with about as many copies as the network takes at a time."""
    by_shape = defaultdict(list)
    for image in chunk:
        by_shape[image.pixels.shape].append(image)
    for (height, width, _), images in by_shape.items():
        size = max(1, job.stylizer.batch_size(height, width, job.spec.work_size) // job.spec.styles_per_image)
        yield from (images[start : start + size] for start in range(0, len(images), size))


def _stylize_batch(job: Job, split: str, workers: Workers, batch: Sequence[SourceImage]) -> list[_Encoding]:
    """Stylize images of one shape, those of `train` alone, and submit them to be encoded."""
    copies: Sequence[Sequence[Pixels]] = [[] for _ in batch]
    if split == "train":
        height, width, _ = batch[0].pixels.shape
        large = job.stylizer.is_large(height, width, job.spec.work_size)
        with workers.all_threads() if large else nullcontext():
            images = [(image.key, job.source.path(split, image.index), image.pixels) for image in batch]
            copies = [list(styled) for styled in stylize_copies(job.stylizer, job.spec, images)]
    made = list(zip(batch, copies, strict=True))
    make = partial(_make_sample, job, split)
    return [workers.codec.submit(list, starmap(make, task)) for task in _cut_tasks(made, batch[0].pixels.size)]


def _make_sample(job: Job, split: str, image: SourceImage, copies: Sequence[Pixels]) -> _Made:
    source, spec = job.source.path(split, image.index), job.spec
    metadata: dict[str, object] = {"source": source, "source_sha256": image.sha256}
    if copies:
        draws = draw_copies(spec, image.key)
        metadata |= {"alpha": spec.alpha, "styles": [spec.styles[one.style].name for one in draws]}
        if isinstance(spec.alpha, str):
            metadata |= {"alpha": None, "alphas": [one.alpha for one in draws]}
    try:
        encoded = tuple(job.codec.encode(pixels) for pixels in copies)
    except PictureError as error:
        return image.index, Failure(split, source, f"copy {error}"), []
    warned = [Flag(split, image.key, f"{source}: {text}") for text in image.warnings]
    sample = Sample(image.key, image.content, encoded, job.source.label(split, image.index), metadata)
    return image.index, sample, [*warned, *flag_copies(image.key, image.pixels, copies)]


def _encoded(chunk: Sequence[SourceImage], stylizing: Sequence[_Stylizing], found: Findings) -> Iterator[Sample]:
    """Yield a chunk's samples in their order, once all are made."""
    encodings = [encoding for batch in stylizing for encoding in batch.result()]
    made = {index: (result, flags) for encoding in encodings for index, result, flags in encoding.result()}
    for image in chunk:
        result, flags = made[image.index]
        found.flags.extend(flags)
        if isinstance(result, Failure):
            found.failures.append(result)
        else:
            found.sources[result.key] = str(result.metadata["source_sha256"])
            yield result
    found.report(len(chunk))


def flag_copies(key: str, content: Pixels, copies: Sequence[Pixels]) -> list[Flag]:
    """Flag every copy (H, W, 3) that is nearly its content, by mean absolute difference, or nearly one colour.

    The latter by the greatest standard deviation of a channel over the pixels.
    """
    flags = []
    for number, copy in enumerate(copies):
        # Sums and products over contiguous channels: a quarter of the time of `std` and 16-bit differences at 224 px.
        channels = np.ascontiguousarray(copy.reshape(-1, 3).T, dtype=np.float32)
        count = channels.shape[1]
        channels -= channels.sum(axis=1, keepdims=True) / count
        std = max(float(channel @ channel) / count for channel in channels) ** 0.5
        difference = int((np.maximum(copy, content) - np.minimum(copy, content)).sum(dtype=np.int64)) / copy.size
        if std < MIN_STD:
            flags.append(Flag("train", key, f"copy {number} is nearly constant (std {std:.1f} of 255)"))
        elif difference < MIN_DIFFERENCE:
            reason = f"copy {number} is nearly its content (difference {difference:.1f} of 255)"
            flags.append(Flag("train", key, reason))
    return flags
