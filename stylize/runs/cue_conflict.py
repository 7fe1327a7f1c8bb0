"""`stylize cue-conflict`: test shards whose images have the shape of one class and the texture of another."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stylize.drawn.shapes import CLASS_NAMES
from stylize.engine.engine import Engine
from stylize.engine.selftest import golden_style, self_test
from stylize.errors import InputError
from stylize.networks.pair import load_pair
from stylize.runs.codec import Codec
from stylize.runs.cue_images import Painter, draw_cue
from stylize.runs.cues import design_cues
from stylize.runs.job import Failure, Report
from stylize.runs.publish import plain_spec
from stylize.runs.sample_set import make_sample_set
from stylize.runs.spec import SAMPLES_PER_SHARD, VERSIONED, ShardOptions, make_spec, shuffled
from stylize.shards.format import Sample
from stylize.shards.manifest import Manifest
from stylize.sources.source import ShapesSource, Source, open_source

CUE_CONFLICT, TEXTURE_FREE = "cue-conflict", "texture-free"
DRAWN_SPLITS = {CUE_CONFLICT: "conflict", TEXTURE_FREE: "textureless"}
CHUNK_IMAGES = 64  # whose pixels, and statistics of textures, are in memory together


@dataclass(frozen=True)
class CueSet:
    """A folder to make: its specification as the manifest holds it, and its samples, or why one cannot be made."""

    spec: dict[str, Any]
    results: Iterator[Sample | Failure]


def open_cue_set(options: ShardOptions, per_class: int, kind: str = CUE_CONFLICT) -> CueSet:
    """Plan a cue-conflict folder from a data set's test images, `per_class` of each class or as many as there are.

    `shapes` has exact ones, drawn and not stylized, and `kind` TEXTURE_FREE as well. Of the options, styles and
    copies do not matter.

    Raises:
        InputError: the source or networks do not exist, an option is out of range, or the data set has no such kind.
    """
    if per_class < 1:
        raise InputError(f"--per-class is {per_class}: give 1 or more.")
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    if isinstance(source, ShapesSource):
        return _drawn(source, options, per_class, kind)
    if kind != CUE_CONFLICT:
        raise InputError(f"{options.data} has no {kind} images: only the data set shapes, which is drawn, has them.")
    return _painted(source, options, per_class)


def _drawn(source: ShapesSource, options: ShardOptions, per_class: int, kind: str) -> CueSet:
    split, codec = DRAWN_SPLITS[kind], Codec(options.codec, options.quality)
    indices = shuffled(range(per_class * len(CLASS_NAMES)), options.seed, split)
    spec = {
        "kind": kind,
        "per_class": per_class,
        "source": source.name,
        "source_fingerprint": source.fingerprint(),
        "class_names": list(source.class_names),
        "counts": {"train": 0, "test": len(indices)},
        "styles": [],
        "styles_per_image": 0,
        "size": options.size,
        "seed": options.seed,
        "codec": options.codec,
        "quality": options.quality,
        "samples_per_shard": SAMPLES_PER_SHARD,
        "versions": {name: version(name) for name in VERSIONED},
    }
    return CueSet(spec, (draw_cue(source, split, index, codec, options.size) for index in indices))


def _painted(source: Source, options: ShardOptions, per_class: int) -> CueSet:
    cues = design_cues(source, per_class, options.seed)
    pair = load_pair(options.encoder, options.decoder)
    engine = Engine(pair.encoder.network, pair.decoder, [golden_style()], options.dtype)
    self_test(engine, shipped=options.decoder is None)
    spec = plain_spec(make_spec(options, source, [], (pair.encoder.sha256, pair.decoder_sha256), engine))
    spec |= {"kind": CUE_CONFLICT, "per_class": per_class, "styles_per_image": 0}
    spec["counts"] = {"train": 0, "test": len(cues)}
    codec = Codec(options.codec, options.quality)
    painter = Painter(source, engine, codec, options.alpha, options.transfer, options.size, options.work_size)
    chunks = (cues[start : start + CHUNK_IMAGES] for start in range(0, len(cues), CHUNK_IMAGES))
    return CueSet(spec, (result for chunk in chunks for result in painter.paint(chunk)))


def make_cue_set(cues: CueSet, out: Path, max_failures: int = 0, report: Report = lambda images: None) -> Manifest:
    """Make the folder `out` of a cue set and return its manifest, as `make_sample_set` does."""
    return make_sample_set(cues.spec, {"test": cues.results}, out, max_failures, report)
