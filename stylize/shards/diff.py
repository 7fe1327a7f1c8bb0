"""`stylize diff`: folders of shards compared."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylize.console import InputError
from stylize.shards import Sample, SampleLocation, index_shard, open_shard, read_sample
from stylize.shards.manifest import SPLITS, Manifest, read_manifest

SHOWN_NAMES = 12
PARTS = ("content", "styled", "label", "metadata")


@dataclass(frozen=True)
class SplitDiff:
    """One split's samples by key: those in one folder alone, and how many of the common ones differ in what."""

    split: str
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    common: int = 0
    differing: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Return whether the folders agree in this split."""
        return not (self.only_first or self.only_second or self.differing)

    def parts(self) -> Counter[str]:
        """Return how many samples differ in each of `PARTS`."""
        return Counter(part for parts in self.differing.values() for part in parts)


def diff_specs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Yield (field, value in the first, value in the second) of the fields in which two specifications differ."""
    for name in sorted({*first, *second}):
        values = first.get(name), second.get(name)
        if values[0] != values[1]:
            yield name, *values


def spec_text(value: object) -> str:
    """Return a value of a specification for people; of a list the number and the first names."""
    if isinstance(value, list):
        names = [entry["name"] if isinstance(entry, dict) else str(entry) for entry in value]
        return f"{len(names)}: {', '.join(names[:SHOWN_NAMES])}{' …' if len(names) > SHOWN_NAMES else ''}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return "not set" if value is None else str(value)


def diff_samples(first: Path, second: Path) -> Iterator[SplitDiff]:
    """Yield the differences of every split that either folder has; samples are matched by key, whatever their order.

    Raises `InputError` where a folder cannot be read.
    """
    manifests = read_manifest(first), read_manifest(second)
    for split in SPLITS:
        if any(manifest.samples(split) for manifest in manifests):
            one, other = locate(first, manifests[0], split), locate(second, manifests[1], split)
            common = sorted(one.keys() & other.keys())
            differing = {key: parts for key in common if (parts := tuple(_differing(one[key], other[key])))}
            only = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
            yield SplitDiff(split, *only, len(common), differing)


def locate(directory: Path, manifest: Manifest, split: str) -> dict[str, SampleLocation]:
    """Return where a split's samples lie, by key and in order; raise `InputError` where a shard cannot be read."""
    located: dict[str, SampleLocation] = {}
    for path in manifest.paths(directory, split):
        for location in index_shard(path):
            if location.key in located:
                raise InputError(f"{path} holds sample {location.key} again: run `stylize verify` on its folder.")
            located[location.key] = location
    return located


def read_located(location: SampleLocation) -> Sample:
    """Read a sample from its shard."""
    with open_shard(location.shard) as file:
        return read_sample(file, location)


def _differing(one: SampleLocation, other: SampleLocation) -> Iterator[str]:
    first, second = read_located(one), read_located(other)
    return (part for part in PARTS if getattr(first, part) != getattr(second, part))
