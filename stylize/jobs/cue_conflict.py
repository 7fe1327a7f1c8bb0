"""Cue-conflict images: the shape of one class in the texture of another (Geirhos et al. 2019)."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image

from stylize.console import InputError, Report, silent
from stylize.jobs.job import Codec, Failure, Job, make_spec
from stylize.jobs.make_shard import SourceImage, read_image
from stylize.jobs.output import make_sample_set
from stylize.jobs.spec import ShardOptions, shuffled, source_record
from stylize.networks.styles import Style
from stylize.networks.stylizer import Pixels, Stylizer, golden_style, self_test
from stylize.networks.weights import load_pair
from stylize.shards import Sample
from stylize.shards.decode import PictureError, encode_png
from stylize.shards.manifest import Manifest
from stylize.sources import Source
from stylize.sources.arrays import SHAPES_SIDE
from stylize.sources.opening import open_source
from stylize.sources.shapes import CLASS_NAMES, draw_shape

CUE_CONFLICT, TEXTURE_FREE = "cue-conflict", "texture-free"
DRAWN_SPLITS = {CUE_CONFLICT: "conflict", TEXTURE_FREE: "textureless"}
CHUNK_IMAGES = 64  # whose pixels, and statistics of textures, are in memory together


class CueSet(NamedTuple):
    """A folder to make: its specification as the manifest holds it, and its samples, or why one cannot be made."""

    spec: dict[str, Any]
    results: Iterator[Sample | Failure]


def open_cue_set(options: ShardOptions, per_class: int, kind: str = CUE_CONFLICT) -> CueSet:
    """Plan a cue-conflict folder from a data set's test images, `per_class` of each class or as many as there are.

    `shapes` has exact ones, drawn and not stylized, and `kind` TEXTURE_FREE as well. Of the options, styles and
    copies do not matter.
    Raises `InputError` where source or networks do not exist, an option is out of range, or there is no such kind.
    """
    if per_class < 1:
        raise InputError(f"--per-class is {per_class}: give 1 or more.")
    if isinstance(options.alpha, str):
        raise InputError(f"--alpha is {options.alpha}: cue-conflict images have one strength, give a number.")
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    if options.data == "shapes":
        return _drawn(source, options, per_class, kind)
    if kind != CUE_CONFLICT:
        raise InputError(f"{options.data} has no {kind} images: only the data set shapes, which is drawn, has them.")
    cues = design_cues(source, per_class, options.seed)
    pair = load_pair(options.encoder, options.decoder)
    stylizer = Stylizer(pair.encoder.network, pair.decoder, [golden_style()], options.dtype)
    self_test(stylizer, shipped=options.decoder is None)
    job = Job(make_spec(options, source, [], (pair.encoder.sha256, pair.decoder_sha256), stylizer), source, stylizer)
    spec = job.spec.document() | {"kind": CUE_CONFLICT, "per_class": per_class, "styles_per_image": 0}
    spec["counts"] = {"train": 0, "test": len(cues)}
    chunks = (cues[start : start + CHUNK_IMAGES] for start in range(0, len(cues), CHUNK_IMAGES))
    return CueSet(spec, chain.from_iterable(paint_cues(job, chunk) for chunk in chunks))


def make_cue_set(cues: CueSet, out: Path, max_failures: int = 0, report: Report = silent) -> Manifest:
    """Make the folder `out` of a cue set and return its manifest, as `make_sample_set` does."""
    return make_sample_set(cues.spec, {"test": cues.results}, out, max_failures, report)


def _drawn(source: Source, options: ShardOptions, per_class: int, kind: str) -> CueSet:
    split, codec = DRAWN_SPLITS[kind], Codec(options.codec, options.quality)
    indices = shuffled(range(per_class * len(CLASS_NAMES)), options.seed, split)
    spec = source_record(source, options) | {"kind": kind, "per_class": per_class, "styles": [], "styles_per_image": 0}
    spec["counts"] = {"train": 0, "test": len(indices)}

    def draw(index: int) -> Sample:  # as the other images of `shapes`, through 64 × 64 pixels
        drawn = draw_shape(index, size=SHAPES_SIDE, split=split)
        data = encode_png(drawn.picture)
        path = f"{split}/{CLASS_NAMES[drawn.shape]}/{index:05d}.png"
        metadata = {"source": path, "source_sha256": hashlib.sha256(data).hexdigest()}
        if drawn.texture is not None:
            metadata["texture"] = CLASS_NAMES[drawn.texture]
        content = codec.read_content(data, options.size).data
        return Sample(f"{index:08d}", content, (), drawn.shape, metadata)

    return CueSet(spec, map(draw, indices))


class Cue(NamedTuple):
    """One cue-conflict image to make, from two test images of different classes, named by their indices."""

    shape: int
    texture: int


def design_cues(source: Source, per_class: int, seed: int) -> list[Cue]:
    """Choose up to `per_class` test images of every class, each with an image of another class as its texture.

    The classes whose texture the images of a class get are as even as their numbers allow (Geirhos et al. 2019).
    All is a function of the seed and of the labels; the result is in the order of the test shards.
    Raises `InputError` where fewer than two classes have test images.
    """
    order = shuffled(range(source.count("test")), seed, "test")
    chosen: dict[int, list[int]] = {}
    for index in order:
        of_class = chosen.setdefault(source.label("test", index), [])
        if len(of_class) < per_class:
            of_class.append(index)
    if len(chosen) < 2:
        raise InputError(f"{source.name} has test images of {len(chosen)} classes: a conflict of cues needs two.")
    textures = {}
    for label, indices in chosen.items():  # they get the other classes in turn, in an order by hash, an image each
        others = sorted(chosen.keys() - {label}, key=lambda other: _hash(seed, "class", label, other))
        for turn, index in enumerate(indices):
            donors = chosen[others[turn % len(others)]]
            textures[index] = donors[_hash(seed, "image", index) % len(donors)]
    return [Cue(index, textures[index]) for index in order if index in textures]


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:8], "big")


def paint_cues(job: Job, cues: Sequence[Cue]) -> Iterator[Sample | Failure]:
    """Yield the cues' samples in their order, each with the content of one test image and the style of another."""
    images = {index: read_image(job, "test", index) for cue in cues for index in (cue.shape, cue.texture)}
    painted: dict[Cue, Sample | Failure] = {}
    usable = []
    for cue in cues:
        shape, texture = images[cue.shape], images[cue.texture]
        if isinstance(shape, Failure):
            painted[cue] = shape
        elif isinstance(texture, Failure):
            reason = f"cannot get its texture: {texture.path} {texture.reason}"
            painted[cue] = Failure("test", job.source.path("test", cue.shape), reason)
        else:
            usable.append((cue, shape, texture))
    if usable:
        painted |= _stylize(job, usable)
    yield from (painted[cue] for cue in cues)


def _stylize(job: Job, usable: Sequence[tuple[Cue, SourceImage, SourceImage]]) -> dict[Cue, Sample | Failure]:
    """Stylize in batches of one shape, and encode."""
    spec, stylizer = job.spec, cast(Stylizer, job.stylizer)
    stylizer.use_styles([_style(job, texture) for _, _, texture in usable])
    by_shape = defaultdict(list)
    for position, (_, shape, _) in enumerate(usable):
        by_shape[shape.pixels.shape].append(position)
    samples = {}
    for positions in by_shape.values():
        contents = np.stack([usable[position][1].pixels for position in positions])
        stylized = stylizer(contents, positions, cast(float, spec.alpha), spec.work_size, spec.transfer)
        for position, pixels in zip(positions, stylized, strict=True):
            samples[usable[position][0]] = _sample(job, *usable[position][1:], pixels)
    return samples


def _style(job: Job, texture: SourceImage) -> Style:
    """Return a texture as a style, at the scale at which contents are stylized."""
    picture = Image.fromarray(texture.pixels)
    if job.spec.work_size:
        scale = job.spec.work_size / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return Style(job.source.path("test", texture.index), texture.sha256, picture)


def _sample(job: Job, shape: SourceImage, texture: SourceImage, pixels: Pixels) -> Sample | Failure:
    source = job.source
    metadata = {
        "source": source.path("test", shape.index),
        "source_sha256": shape.sha256,
        "texture": source.class_names[source.label("test", texture.index)],
        "texture_source": source.path("test", texture.index),
        "texture_source_sha256": texture.sha256,
        "alpha": job.spec.alpha,
    }
    try:
        content = job.codec.encode(pixels)
    except PictureError as error:
        return Failure("test", source.path("test", shape.index), f"image {error}")
    return Sample(shape.key, content, (), source.label("test", shape.index), metadata)
