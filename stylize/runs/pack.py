"""`stylize pack`: shards from originals and stylized copies that exist as files; no network runs."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from stylize.errors import InputError
from stylize.runs.codec import Codec
from stylize.runs.job import Failure, Report
from stylize.runs.pairing import Copy, pair_copies
from stylize.runs.sample_set import make_sample_set
from stylize.runs.spec import SAMPLES_PER_SHARD, VERSIONED, ShardOptions, shuffled
from stylize.shards.format import MAX_COPIES, Sample
from stylize.shards.manifest import Manifest
from stylize.sources.pictures import PictureError
from stylize.sources.source import Source, open_source

PACKED = "packed"


def pack_pairs(
    options: ShardOptions,
    copies: Sequence[Path],
    out: Path,
    max_failures: int = 0,
    report: Report = lambda images: None,
) -> Manifest:
    """Make the folder `out` of the data set's images and their copies in other folders; return its manifest.

    Of the options data, size, seed, test_fraction, codec and quality matter. A file that is in the codec and size
    wanted keeps its bytes, as in `make_shards`.

    Raises:
        InputError: images and copies do not pair (see `pair_copies`), `out` holds something else or cannot be
            written, or more than `max_failures` images or their copies cannot be used.
    """
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    pairs = pair_copies(source, copies)
    if not pairs or len(next(iter(pairs.values()))) > MAX_COPIES:
        raise InputError(f"{options.data} has no training images, or more than {MAX_COPIES} copies of each.")
    codec = Codec(options.codec, options.quality)
    results = {
        split: map(
            partial(_sample, source, split, pairs, codec, options.size),
            shuffled(range(source.count(split)), options.seed, split),
        )
        for split in source.splits
    }
    return make_sample_set(_spec(options, source, pairs), results, out, max_failures, report)


def _spec(options: ShardOptions, source: Source, pairs: Mapping[str, Sequence[Copy]]) -> dict[str, object]:
    styles = sorted({copy.style for copies in pairs.values() for copy in copies})
    files = [(name, copy.file.name, copy.style, _size(copy)) for name, own in pairs.items() for copy in own]
    fingerprint = hashlib.sha256(repr((source.fingerprint(), files)).encode()).hexdigest()
    return {
        "kind": PACKED,
        "source": source.name,
        "source_fingerprint": fingerprint,
        "class_names": list(source.class_names),
        "counts": {split: source.count(split) for split in source.splits},
        "styles": [{"name": name, "sha256": None} for name in styles],
        "styles_per_image": len(next(iter(pairs.values()))),
        "size": options.size,
        "alpha": None,
        "seed": options.seed,
        "test_fraction": options.test_fraction,
        "codec": options.codec,
        "quality": options.quality,
        "samples_per_shard": SAMPLES_PER_SHARD,
        "versions": {name: version(name) for name in VERSIONED},
    }


def _size(copy: Copy) -> int:
    """Return a file's size, −1 for one in a zip or that cannot be looked at."""
    path = copy.file.root / copy.file.name
    return path.stat().st_size if path.is_file() else -1


def _sample(
    source: Source, split: str, pairs: Mapping[str, Sequence[Copy]], codec: Codec, size: int | None, index: int
) -> Sample | Failure:
    path = source.path(split, index)
    try:
        data = source.read(split, index)
        content = codec.read_content(data, size)
    except PictureError as error:
        return Failure(split, path, str(error))
    metadata: dict[str, object] = {"source": path, "source_sha256": hashlib.sha256(data).hexdigest()}
    own = pairs[path] if split == "train" else ()
    try:
        styled = tuple(_read_copy(copy, codec, size, content.pixels.shape) for copy in own)
    except PictureError as error:
        return Failure(split, path, f"copy {error}")
    if own:
        metadata |= {"alpha": None, "styles": [copy.style for copy in own]}
    return Sample(f"{index:08d}", content.data, styled, source.label(split, index), metadata)


def _read_copy(copy: Copy, codec: Codec, size: int | None, shape: tuple[int, ...]) -> bytes:
    """Return a copy's bytes; raise `PictureError` where it cannot be used, or has another size than its original."""
    content = codec.read_content(copy.file.read(), size)
    if content.pixels.shape != shape:
        height, width, _ = content.pixels.shape
        raise PictureError(f"{copy.file.name} has {width}×{height} pixels, its original {shape[1]}×{shape[0]}")
    return content.data
