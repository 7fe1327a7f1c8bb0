"""Make one shard: read and decode its images, stylize them, encode the copies, write the tar."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stylize.codec import Codec
from stylize.engine import Engine, Pixels
from stylize.errors import InputError
from stylize.manifest import Flag, ShardEntry
from stylize.pictures import PictureError
from stylize.quality import flag_copies
from stylize.shards import Sample, file_sha256, write_shard
from stylize.sources import Source, open_source
from stylize.spec import ShardOptions, ShardPlan, Spec, make_spec
from stylize.styles import load_styles, style_choice
from stylize.weights import default_decoder_file, embedded_encoder, load_decoder

CHUNK_IMAGES = 256  # at most so many images in memory at a time,
CHUNK_VALUES = 128_000_000  # and about so many pixel values, copies included
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
    flags: tuple[Flag, ...]
    sources: Mapping[str, str]  # every sample's key and the SHA-256 of its source


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
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    styles = load_styles(options.style)
    encoder = embedded_encoder()
    decoder_file = options.decoder or default_decoder_file()
    engine = Engine(encoder.network, load_decoder(decoder_file, encoder.sha256), styles, options.dtype)
    hashes = (encoder.sha256, file_sha256(decoder_file))
    return Job(make_spec(options, source, styles, hashes, engine.dtype_name, engine.device.type), source, engine)


def make_shard(job: Job, plan: ShardPlan, folder: Path, report: Report) -> Receipt:
    """Make one shard under a temporary name, flush and rename it, and return its receipt."""
    failures: list[Failure] = []
    flags: list[Flag] = []
    sources: dict[str, str] = {}
    temporary, final = folder / f"{plan.name}.{os.getpid()}.part", folder / plan.name
    try:
        samples = shard_samples(job, plan, failures, flags, report)
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
    job: Job, plan: ShardPlan, failures: list[Failure], flags: list[Flag], report: Report
) -> Iterator[Sample]:
    """Yield a shard's samples in their order; unusable images go to `failures` instead, what looks wrong to `flags`."""
    images = _read_images(job, plan.split, plan.indices, failures)
    finished = 0
    while chunk := _take_chunk(images, job.spec.styles_per_image):
        styled = _stylize(job, chunk) if plan.split == "train" else {}
        for image in chunk:
            copies = styled.get(image.index, [])
            flags += flag_copies(_key(image.index), image.pixels, copies)
            yield _sample(job, plan.split, image, copies)
        report(len(chunk))
        finished += len(chunk)
    if failed := len(plan.indices) - finished:
        report(failed)


def _take_chunk(images: Iterator[_Image], copies: int) -> list[_Image]:
    """Take the next images up to what memory should hold."""
    chunk: list[_Image] = []
    values = 0
    while len(chunk) < CHUNK_IMAGES and values < CHUNK_VALUES and (image := next(images, None)) is not None:
        chunk.append(image)
        values += image.pixels.size * (1 + copies)
    return chunk


def _read_images(job: Job, split: str, indices: Iterable[int], failures: list[Failure]) -> Iterator[_Image]:
    for index in indices:
        try:
            source = job.source.read(split, index)
            content, pixels = job.codec.read_content(source, job.spec.size)
        except PictureError as error:
            failures.append(Failure(split, job.source.path(split, index), str(error)))
        else:
            yield _Image(index, source, content, pixels)


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
