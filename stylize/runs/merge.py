"""`stylize merge`: two folders of shards as one, with more images or more copies of each, and no network."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stylize.errors import InputError
from stylize.runs.job import Report
from stylize.runs.sample_set import make_sample_set
from stylize.runs.spec import SAMPLES_PER_SHARD, VERSIONED, shuffled
from stylize.shards.diff import SPLITS, locate, read_located
from stylize.shards.format import MAX_COPIES, Sample, SampleLocation
from stylize.shards.manifest import Manifest, read_manifest

MERGED = "merged"
ALIKE = ("class_names", "codec", "size")  # what both folders must have alike for one to be made of them
Located = dict[str, dict[str, SampleLocation]]


def merge_shards(first: Path, second: Path, out: Path, report: Report = lambda images: None) -> Manifest:
    """Make the folder `out` of the samples of two others and return its manifest.

    Where both have the same images, byte by byte and by key, every image gets the copies of both; where they have none
    in common, by their sources' SHA-256, `out` has the images of both, those of the second with keys after the first's.

    Raises:
        InputError: the folders differ in classes, codec or size, share some of their images and not all, or cannot be
            read; or `out` holds something else or cannot be written.
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
        counts, copies = _counts(located[:1]), sum(manifest.styles_per_image for manifest in manifests)
    else:
        _check_apart(first, second, manifests, sources)
        results = {split: _of_both(split, located[0][split], located[1][split]) for split in SPLITS}
        counts, copies = _counts(located), manifests[0].styles_per_image
    if copies > MAX_COPIES:
        raise InputError(f"{out} would have {copies} copies of every image: the format holds {MAX_COPIES}.")
    return make_sample_set(_spec(manifests, counts, copies), results, out, report=report)


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


def _counts(located: list[Located]) -> dict[str, int]:
    counts = {split: sum(len(of[split]) for of in located) for split in SPLITS}
    return {split: count for split, count in counts.items() if count or split != "val"}


def _with_both_copies(one: dict[str, SampleLocation], other: dict[str, SampleLocation]) -> Iterator[Sample]:
    for key, location in one.items():
        first, second = read_located(location), read_located(other[key])
        if (first.content, first.label) != (second.content, second.label):
            raise InputError(f"Sample {key} has other content in {other[key].shard}: its copies do not belong here.")
        if not first.styled and not second.styled:
            yield first
            continue
        styles = [*first.metadata.get("styles", ()), *second.metadata.get("styles", ())]
        alphas = [first.metadata.get("alpha"), second.metadata.get("alpha")]
        metadata = {**first.metadata, "styles": styles}
        if alphas[0] != alphas[1]:
            metadata |= {"alpha": None, "alphas": alphas}
        yield replace(first, styled=(*first.styled, *second.styled), metadata=metadata)


def _of_both(split: str, one: dict[str, SampleLocation], other: dict[str, SampleLocation]) -> Iterator[Sample]:
    """Yield the samples of both, mixed by hash as `make_shards` mixes them."""
    offset = 1 + max(map(int, one), default=-1)
    places = {int(key): location for key, location in one.items()}
    places |= {int(key) + offset: location for key, location in other.items()}
    for index in shuffled(places, 0, split):
        yield replace(read_located(places[index]), key=f"{index:08d}")


def _spec(manifests: tuple[Manifest, Manifest], counts: Mapping[str, int], copies: int) -> dict[str, Any]:
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
