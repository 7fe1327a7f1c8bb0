"""Which image gives its shape and which its texture to every cue-conflict image: by hash, before any is read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from stylize.errors import InputError
from stylize.runs.spec import shuffled
from stylize.sources.source import Source


@dataclass(frozen=True)
class Cue:
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
    textures = {index: texture for label in chosen for index, texture in _textures(chosen, label, seed)}
    return [Cue(index, textures[index]) for index in order if index in textures]


def _textures(chosen: dict[int, list[int]], label: int, seed: int) -> Sequence[tuple[int, int]]:
    """Give the images of a class the other classes in turn, in an order by hash, and one image of that class each."""
    others = sorted((other for other in chosen if other != label), key=lambda other: _hash(seed, "class", label, other))
    pairs = []
    for turn, index in enumerate(chosen[label]):
        donors = chosen[others[turn % len(others)]]
        pairs.append((index, donors[_hash(seed, "image", index) % len(donors)]))
    return pairs


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:8], "big")
