"""Make one shard: read and decode its images, stylize them, encode the copies, write the tar."""

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stylize.codec import Codec
from stylize.engine import Engine, Pixels
from stylize.errors import InputError
from stylize.manifest import ShardEntry
from stylize.pair import load_pair
from stylize.pictures import PictureError
from stylize.selftest import self_test
from stylize.shards import Sample, file_sha256, write_shard
from stylize.sources import Source, open_source
from stylize.spec import ShardOptions, ShardPlan, Spec, make_spec
from stylize.styles import load_styles, style_choice

CHUNK_IMAGES = 256  # at most so many images in memory at a time,
CHUNK_VALUES = 128_000_000  # and about so many pixel values, copies included
GUESSED_SIDE = 1000  # of images that keep their own size, to bound how many are read ahead
Report = Callable[[int], None]


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    split: str
    path: str
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished shard; written after it, so that its presence means the shard is whole."""

    shard: ShardEntry
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Job:
    """Everything that making a shard needs."""

    spec: Spec
    source: Source
    engine: Engine

    @property
    def codec(self) -> Codec:
        """Return how images are stored."""
        return Codec(self.spec.codec, self.spec.quality)


def open_job(options: ShardOptions) -> Job:
    """Load source, styles and networks; raise `InputError` for anything that does not exist or does not fit."""
    pair = load_pair(options.encoder, options.decoder)
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    styles = load_styles(options.style)
    self_test(pair.encoder.network, pair.decoder, options.dtype, shipped=options.decoder is None)
    engine = Engine(pair.encoder.network, pair.decoder, styles, options.dtype)
    hashes = (pair.encoder.sha256, pair.decoder_sha256)
    return Job(make_spec(options, source, styles, hashes, engine.dtype_name, engine.device.type), source, engine)


def make_shard(job: Job, plan: ShardPlan, folder: Path, report: Report) -> Receipt:
    """Make one shard under a temporary name, flush and rename it, and return its receipt."""
    failures: list[Failure] = []
    temporary, final = folder / f"{plan.name}.{os.getpid()}.part", folder / plan.name
    try:
        count = write_shard(temporary, shard_samples(job, plan, failures, report), job.spec.codec)
        entry = ShardEntry(plan.name, plan.split, count, temporary.stat().st_size, file_sha256(temporary))
        temporary.rename(final)
    except OSError as error:
        raise InputError(f"{final} cannot be written ({error.strerror}): make room and run the same command.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return Receipt(entry, tuple(failures))


@dataclass(frozen=True)
class _Image:
    index: int
    source: bytes
    content: bytes
    pixels: Pixels


def shard_samples(job: Job, plan: ShardPlan, failures: list[Failure], report: Report) -> Iterator[Sample]:
    """Yield a shard's samples in their order; unusable images are appended to `failures` instead.

    Threads decode the next images and encode the last copies while the network works on those in between.
    """
    finished = 0
    with ThreadPoolExecutor(_codec_threads()) as pool:
        encoding: list[Future[Sample]] = []
        images = _read_images(job, plan, failures, pool)
        while chunk := _take_chunk(images, job.spec.styles_per_image):
            styled = _stylize(job, chunk) if plan.split == "train" else {}
            for sample in encoding:
                yield sample.result()
            encoding = [pool.submit(_sample, job, plan.split, image, styled.get(image.index, [])) for image in chunk]
            report(len(chunk))
            finished += len(chunk)
        for sample in encoding:
            yield sample.result()
    if failed := len(plan.indices) - finished:
        report(failed)


def _codec_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    waiting: deque[Future[_Image | Failure]] = deque()
    side = job.spec.size or GUESSED_SIDE
    ahead = max(1, min(CHUNK_IMAGES, CHUNK_VALUES // (3 * side * side)))
    for index in plan.indices:
        waiting.append(pool.submit(_read_image, job, plan.split, index))
        if len(waiting) > ahead:
            yield from _usable(waiting.popleft().result(), failures)
    for future in waiting:
        yield from _usable(future.result(), failures)


def _usable(image: _Image | Failure, failures: list[Failure]) -> Iterator[_Image]:
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


def _stylize(job: Job, images: Sequence[_Image]) -> dict[int, list[Pixels]]:
    """Stylize images in batches of one shape and return every image's copies by its index."""
    spec, by_shape = job.spec, defaultdict(list)
    for image in images:
        by_shape[image.pixels.shape].append(image)
    copies: dict[int, list[Pixels]] = defaultdict(list)
    for group in by_shape.values():
        pixels = np.stack([image.pixels for image in group for _ in range(spec.styles_per_image)])
        choice = [style for image in group for style in _choice(spec, image.index)]
        styled = job.engine.stylize(pixels, choice, spec.alpha, spec.work_size)
        owners = [image.index for image in group for _ in range(spec.styles_per_image)]
        for owner, copy in zip(owners, styled, strict=True):
            copies[owner].append(copy)
    return copies


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
