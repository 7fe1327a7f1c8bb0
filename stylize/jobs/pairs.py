"""Shards of pairs made elsewhere or before: pack, merge, and rederive."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from stylize.console import InputError, Report, counted, silent
from stylize.files import given_name
from stylize.jobs.job import Codec, Failure
from stylize.jobs.output import make_sample_set
from stylize.jobs.spec import SAMPLES_PER_SHARD, VERSIONED, ShardOptions, Spec, draw_copies, shuffled, source_record
from stylize.jobs.stylizers import OwnStylizer, open_own_stylizer, stylize_copies
from stylize.networks.openvino import calibration_sha256
from stylize.networks.styles import load_styles
from stylize.networks.stylizer import Stylizer, golden_style
from stylize.networks.weights import load_pair
from stylize.shards import MAX_COPIES, Sample, SampleLocation
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.diff import locate, read_located
from stylize.shards.manifest import SPLITS, Manifest, read_manifest
from stylize.sources import Source
from stylize.sources.folder import PictureFile, list_files
from stylize.sources.opening import open_source

MARK = "-stylized-"  # stylize-datasets makes PHOTO-stylized-STYLE.jpg of PHOTO.jpg
PACKED, MERGED = "packed", "merged"
ALIKE = ("class_names", "codec", "size")  # what both folders must have alike for one to be made of them
Located = dict[str, dict[str, SampleLocation]]


class Copy(NamedTuple):
    """A stylized copy that exists: its file, and the name of its style, as far as that can be told."""

    file: PictureFile
    style: str


def pair_copies(source: Source, folders: Sequence[Path]) -> dict[str, list[Copy]]:
    """Return the copies of every training image by the image's path in the source; all have as many.

    A copy has the path of its original in any of the folders, maybe with another suffix, or with `-stylized-STYLE`
    after its stem, as stylize-datasets names them. Copies of images of other splits are left aside.
    Raises `InputError` where training images have no copies or different numbers, or copies no original.
    """
    names = {split: [source.path(split, i) for i in range(source.count(split))] for split in source.splits}
    train: dict[str, str] = {}
    for name in names.get("train", ()):
        if train.setdefault(_stem(name), name) != name:
            raise InputError(f"Two originals are called {_stem(name)}, but for a suffix: rename one and its copies.")
    others = {_stem(name) for split, of in names.items() if split != "train" for name in of}
    copies: dict[str, list[Copy]] = {name: [] for name in train.values()}
    strangers = []
    for folder in folders:
        for file in list_files(folder).files:
            readings = _readings(_stem(file.name), given_name(folder))
            stem, style = next((one for one in readings if one[0] in train or one[0] in others), ("", ""))
            if stem in train:
                copies[train[stem]].append(Copy(file, style))
            elif not stem:
                strangers.append(file.name)
    _check(copies, strangers)
    return copies


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _readings(stem: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield (stem of the original, style) as a copy's name can be read: whole, then cut at each mark."""
    yield stem, folder
    for mark in re.finditer(f"(?={MARK})", stem):
        yield stem[: mark.start()], stem[mark.start() + len(MARK) :]


def _check(copies: Mapping[str, Sequence[Copy]], strangers: Sequence[str]) -> None:
    """Refuse images without copies, copies without images, and images with different numbers of copies."""
    if missing := [name for name, own in copies.items() if not own]:
        raise InputError(
            f"{counted(len(missing), 'training image')} of {len(copies)} have no stylized copy (first: {missing[0]}): "
            "add the copies, or take the images away."
        )
    if strangers:
        raise InputError(
            f"{counted(len(strangers), 'copy', 'copies')} have no original (first: {strangers[0]}): "
            "add the originals, or take the copies away."
        )
    numbers = Counter(map(len, copies.values()))
    if len(numbers) > 1:
        usual = numbers.most_common(1)[0][0]
        odd = next(name for name, own in copies.items() if len(own) != usual)
        raise InputError(
            f"Most training images have {counted(usual, 'copy', 'copies')}, but {odd} has {len(copies[odd])}: "
            "give every image as many."
        )


def pack_pairs(
    options: ShardOptions, copies: Sequence[Path], out: Path, max_failures: int = 0, report: Report = silent
) -> Manifest:
    """Make the folder `out` of the data set's images and their copies in other folders; return its manifest.

    Of the options data, size, seed, test_fraction, codec and quality matter. A file that is in the codec and size
    wanted keeps its bytes, as in `make_shards`.
    Raises `InputError` where images and copies do not pair (see `pair_copies`), `out` holds something else or cannot be
    written, or more than `max_failures` images or their copies cannot be used.
    """
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    pairs = pair_copies(source, copies)
    if not pairs or len(next(iter(pairs.values()))) > MAX_COPIES:
        raise InputError(f"{options.data} has no training images, or more than {MAX_COPIES} copies of each.")
    codec = Codec(options.codec, options.quality)
    results = {}
    for split in source.splits:
        make = partial(_sample, source, split, pairs, codec, options.size)
        results[split] = map(make, shuffled(range(source.count(split)), options.seed, split))
    return make_sample_set(_spec(options, source, pairs), results, out, max_failures, report)


def _spec(options: ShardOptions, source: Source, pairs: Mapping[str, Sequence[Copy]]) -> dict[str, object]:
    styles = sorted({copy.style for copies in pairs.values() for copy in copies})
    files = [(name, copy.file.name, copy.style, _size(copy.file)) for name, own in pairs.items() for copy in own]
    fingerprint = hashlib.sha256(repr((source.fingerprint(), files)).encode()).hexdigest()
    return source_record(source, options) | {
        "kind": PACKED,
        "source_fingerprint": fingerprint,
        "counts": {split: source.count(split) for split in source.splits},
        "styles": [{"name": name, "sha256": None} for name in styles],
        "styles_per_image": len(next(iter(pairs.values()))),
        "alpha": None,
        "test_fraction": options.test_fraction,
    }


def _size(file: PictureFile) -> int:
    """Return a file's size, −1 for one in a zip or that cannot be looked at."""
    path = file.root / file.name
    return path.stat().st_size if path.is_file() else -1


def _sample(
    source: Source, split: str, pairs: Mapping[str, Sequence[Copy]], codec: Codec, size: int | None, index: int
) -> Sample | Failure:
    path, of = source.path(split, index), ""
    own = pairs[path] if split == "train" else ()
    try:
        data = source.read(split, index)
        content = codec.read_content(data, size)
        of = "copy "
        styled = tuple(_read_copy(copy.file, codec, size, content.pixels.shape) for copy in own)
    except PictureError as error:
        return Failure(split, path, f"{of}{error}")
    metadata: dict[str, object] = {"source": path, "source_sha256": hashlib.sha256(data).hexdigest()}
    if own:
        metadata |= {"alpha": None, "styles": [copy.style for copy in own]}
    return Sample(f"{index:08d}", content.data, styled, source.label(split, index), metadata)


def _read_copy(file: PictureFile, codec: Codec, size: int | None, shape: tuple[int, ...]) -> bytes:
    """Return a copy's bytes; raise `PictureError` where it cannot be used, or has another size than its original."""
    content = codec.read_content(file.read(), size)
    if content.pixels.shape != shape:
        height, width, _ = content.pixels.shape
        raise PictureError(f"{file.name} has {width}×{height} pixels, its original {shape[1]}×{shape[0]}")
    return content.data


def merge_shards(first: Path, second: Path, out: Path, report: Report = silent) -> Manifest:
    """Make the folder `out` of the samples of two others and return its manifest.

    Where both have the same images, byte by byte and by key, every image gets the copies of both; where they have none
    in common, by their sources' SHA-256, `out` has the images of both, those of the second with keys after the first's.
    Raises `InputError` where the folders differ in classes, codec or size, share some of their images and not all, or
    cannot be read; or `out` holds something else or cannot be written.
    """
    manifests = read_manifest(first), read_manifest(second)
    for name in ALIKE:
        one, other = (manifest.spec.get(name) for manifest in manifests)
        if one != other:
            raise InputError(f"{first} and {second} differ in {name}: merge only what has it alike.")
    located = [
        {split: locate(folder, manifest, split) for split in SPLITS}
        for folder, manifest in zip((first, second), manifests, strict=True)
    ]
    sources = [_sources(of) for of in located]
    if sources[0] == sources[1]:
        results = {split: _with_both_copies(located[0][split], located[1][split]) for split in SPLITS}
        copies = sum(manifest.styles_per_image for manifest in manifests)
        located.pop()
    else:
        _check_apart(first, second, manifests, sources)
        results = {split: _of_both(split, located[0][split], located[1][split]) for split in SPLITS}
        copies = manifests[0].styles_per_image
    if copies > MAX_COPIES:
        raise InputError(f"{out} would have {copies} copies of every image: the format holds {MAX_COPIES}.")
    counts = {split: sum(len(of[split]) for of in located) for split in SPLITS}
    counts = {split: count for split, count in counts.items() if count or split != "val"}
    return make_sample_set(_merged_spec(manifests, counts, copies), results, out, report=report)


def _sources(located: Located) -> dict[tuple[str, str], str]:
    """Return the SHA-256 of every sample's source by split and key."""
    return {
        (split, key): str(read_located(location).metadata.get("source_sha256"))
        for split, of in located.items()
        for key, location in of.items()
    }


def _check_apart(
    first: Path, second: Path, manifests: tuple[Manifest, Manifest], sources: list[dict[tuple[str, str], str]]
) -> None:
    shared = set(sources[0].values()) & set(sources[1].values())
    if shared:
        raise InputError(
            f"{first} and {second} have {len(shared)} of {len(sources[0])} and {len(sources[1])} images in common: "
            "merge folders of the same images, or of none in common."
        )
    one, other = (manifest.styles_per_image for manifest in manifests)
    if one != other:
        raise InputError(f"{first} has {one} copies of an image, {second} has {other}: merge what has as many.")


def _with_both_copies(one: dict[str, SampleLocation], other: dict[str, SampleLocation]) -> Iterator[Sample]:
    for key, location in one.items():
        first, second = read_located(location), read_located(other[key])
        if (first.content, first.label) != (second.content, second.label):
            raise InputError(f"Sample {key} has other content in {other[key].shard}: its copies do not belong here.")
        metadata = dict(first.metadata)
        if first.styled or second.styled:
            metadata["styles"] = [style for sample in (first, second) for style in sample.metadata.get("styles", ())]
        alphas = [*_alphas(first), *_alphas(second)]
        if len(set(alphas)) > 1:
            metadata |= {"alpha": None, "alphas": alphas}
        yield replace(first, styled=(*first.styled, *second.styled), metadata=metadata)


def _alphas(sample: Sample) -> list[float | None]:
    return list(sample.metadata.get("alphas") or [sample.metadata.get("alpha")] * len(sample.styled))


def _of_both(split: str, one: dict[str, SampleLocation], other: dict[str, SampleLocation]) -> Iterator[Sample]:
    """Yield the samples of both, mixed by hash as `make_shards` mixes them."""
    offset = 1 + max(map(int, one), default=-1)
    places = {int(key): location for key, location in one.items()}
    places |= {int(key) + offset: location for key, location in other.items()}
    for index in shuffled(places, 0, split):
        yield replace(read_located(places[index]), key=f"{index:08d}")


def _merged_spec(manifests: tuple[Manifest, Manifest], counts: Mapping[str, int], copies: int) -> dict[str, Any]:
    one, other = (dict(manifest.spec) for manifest in manifests)
    alike = {name: one.get(name) if one.get(name) == other.get(name) else None for name in {**one, **other}}
    styles = {json.dumps(style, sort_keys=True): style for spec in (one, other) for style in spec["styles"]}
    parts = hashlib.sha256(json.dumps([one, other], sort_keys=True).encode()).hexdigest()
    return {
        **alike,
        "kind": MERGED,
        "parts": [one, other],
        "source": " + ".join(dict.fromkeys(str(spec.get("source")) for spec in (one, other))),
        "source_fingerprint": parts,
        "counts": dict(counts),
        "styles": list(styles.values()),
        "styles_per_image": copies,
        "samples_per_shard": SAMPLES_PER_SHARD,
        "versions": {name: version(name) for name in VERSIONED},
    }


class CopyDifference(NamedTuple):
    """How far a copy that was computed again is from the stored one, in grey levels of 255."""

    style: str
    largest: int
    mean: float


def rederive_pair(
    directory: Path,
    key: str,
    styles: Sequence[str] = (),
    encoder: str | None = None,
    decoder: Path | None = None,
    stylizer: str | None = None,
) -> list[CopyDifference]:
    """Stylize a training sample's original again and return each copy's difference from the stored one.

    `styles` are the pictures that the manifest names, where they are not built in. Code of one's own that it names runs
    only where `stylizer` names it too.
    Raises `InputError` where there is no such sample, the folder was not made by `stylize shards`, or networks, code or
    styles are other than the manifest's.
    """
    manifest = read_manifest(directory)
    location = locate(directory, manifest, "train").get(key)
    if location is None:
        raise InputError(f"{directory} has no training sample {key}: give a key as in its shards, of eight digits.")
    if manifest.spec.get("kind") or "decoder_sha256" not in manifest.spec:
        raise InputError(f"{directory} was not made by `stylize shards`: nothing says how to make its copies again.")
    spec, sample = Spec.read(manifest.spec), read_located(location)
    engine: Stylizer | OwnStylizer
    if spec.stylizer or stylizer:
        engine = _own_engine(directory, spec, styles, stylizer)
    else:
        engine = _engine(directory, spec, styles, encoder, decoder)
    content = np.asarray(decode_picture(sample.content))
    (made,) = stylize_copies(engine, spec, [(key, str(sample.metadata["source"]), content)])
    codec = Codec(spec.codec, spec.quality)
    differences = []
    for draw, copy, pixels in zip(draw_copies(spec, key), sample.styled, made, strict=True):
        stored, again = (np.asarray(decode_picture(data), np.int16) for data in (copy, codec.encode(pixels)))
        apart, style = np.abs(stored - again), spec.styles[draw.style].name
        differences.append(CopyDifference(style, int(apart.max()), float(apart.mean())))
    return differences


def _engine(directory: Path, spec: Spec, styles: Sequence[str], encoder: str | None, decoder: Path | None) -> Stylizer:
    pair = load_pair(encoder, decoder)
    names = styles or [style.name for style in spec.styles]
    loaded = load_styles(names, pair.decoder_sha256, spec.style_size)
    _check_same(directory, "encoder", pair.encoder.sha256, spec.encoder_sha256)
    _check_same(directory, "decoder", pair.decoder_sha256, spec.decoder_sha256)
    _check_same(directory, "style", [style.sha256 for style in loaded], [style.sha256 for style in spec.styles])
    if spec.calibration_sha256 not in (None, calibration_sha256()):
        raise InputError(f"{directory} was made with another calibration of int8: use the version that made it.")
    # The self-test's style belongs to what int8 is calibrated with when a job opens.
    return Stylizer(pair.encoder.network, pair.decoder, [*loaded, golden_style()], spec.dtype, spec.backend)


def _own_engine(directory: Path, spec: Spec, styles: Sequence[str], stylizer: str | None) -> OwnStylizer:
    reference = spec.stylizer["reference"] if spec.stylizer else None
    if reference is None:
        raise InputError(f"{directory} was made by the built-in stylizer: leave --stylizer out.")
    if stylizer != reference:
        raise InputError(
            f"{directory} says that the code {reference} made its copies, and a file does not choose what runs here: "
            f"give --stylizer {reference} if that code is yours."
        )
    names = tuple(styles or (style.name for style in spec.styles if style.sha256)) or ShardOptions.style
    alpha = ShardOptions.alpha if spec.alpha is None else spec.alpha
    options = ShardOptions(names, stylizer=stylizer, size=spec.size, style_size=spec.style_size, alpha=alpha)
    engine, loaded = open_own_stylizer(options)
    _check_same(directory, "stylizer", engine.declared, spec.stylizer)
    _check_same(directory, "style", [style.sha256 for style in loaded], [style.sha256 for style in spec.styles])
    return engine


def _check_same(directory: Path, name: str, found: object, recorded: object) -> None:
    if found != recorded:
        raise InputError(f"{directory} was made with another {name} than this: give its own with --{name}.")
