"""Views of a sample by name: which images a method is given, all with the same crop and flip."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.augmentation import ImagePreset
from train.order import hashed
from train.pairs import PairDataset
from train.views.augmix import augmix
from train.views.jitter import jitter


@dataclass(frozen=True)
class Draw:
    """N samples in one epoch: everything random about each is a hash of (seed, epoch, key).

    `by_class` are, for each label, the ascending indices of the samples that are trained on.
    """

    samples: PairDataset
    by_class: Sequence[NDArray[np.int64]]
    preset: ImagePreset
    seed: int
    epoch: int
    indices: Sequence[int]

    def hashed(self, what: object) -> list[int]:
        """Return an integer in [0, 2**64) for each sample, that depends on (seed, epoch, key, what) alone."""
        return [hashed(self.seed, self.epoch, self.samples.keys[index], what) for index in self.indices]

    def augmented(self, images: Sequence[Sequence[int]], indices: Sequence[int] | None = None) -> Tensor:
        """Return the chosen images of each sample, cropped and flipped alike: uint8 (N, V, 3, size, size).

        They are those of the samples `indices` where these are given, cropped as the draw's own.
        """
        pixels = self.samples.read_many(self.indices if indices is None else indices, images)
        return self.preset.augment(pixels, self.hashed("augmentation"))

    def copies(self, what: str) -> list[int]:
        """Return one of the copies of each sample, 1 to K."""
        return [1 + entropy % self.samples.copies for entropy in self.hashed(what)]


def original(draw: Draw) -> Tensor:
    """Return the originals: uint8 (N, 1, 3, size, size)."""
    return draw.augmented([[0]] * len(draw.indices))


def copy(draw: Draw) -> Tensor:
    """Return the originals and one of the copies of each: uint8 (N, 2, 3, size, size)."""
    return draw.augmented([[0, chosen] for chosen in draw.copies("copy")])


def two_copies(draw: Draw) -> Tensor:
    """Return the originals and two different copies of each: uint8 (N, 3, 3, size, size)."""
    copies, entropies = draw.samples.copies, draw.hashed("second copy")
    chosen = [
        [0, first, 1 + (first + entropy % (copies - 1)) % copies]
        for first, entropy in zip(draw.copies("copy"), entropies, strict=True)
    ]
    return draw.augmented(chosen)


def copy_of_class(draw: Draw) -> Tensor:
    """Return the originals and a copy of another training image of the class of each: uint8 (N, 2, 3, size, size).

    A class's only image is its own partner.  Both get the same crop and flip, though they may differ in size.
    """
    partners = [
        _partner(draw.by_class[draw.samples.labels[index]], index, entropy)
        for index, entropy in zip(draw.indices, draw.hashed("partner"), strict=True)
    ]
    copies = draw.augmented([[chosen] for chosen in draw.copies("copy")], partners)
    return torch.cat([original(draw), copies], 1)


def _partner(others: NDArray[np.int64], index: int, entropy: int) -> int:
    """Return another of the ascending indices, which hold `index`."""
    place = int(np.searchsorted(others, index))
    return int(others[(place + 1 + entropy % max(1, len(others) - 1)) % len(others)])


def jittered(draw: Draw) -> Tensor:
    """Return the originals and a copy of each in other colours: uint8 (N, 2, 3, size, size)."""
    return _with_made(draw, jitter, "jitter")


def augmixed(draw: Draw) -> Tensor:
    """Return the originals and two mixtures of each by AugMix: uint8 (N, 3, 3, size, size)."""
    return _with_made(draw, augmix, "augmix 0", "augmix 1")


def _with_made(draw: Draw, make: Callable[[Tensor, int], Tensor], *names: str) -> Tensor:
    """Return the originals and beside each what is made from it, once a name."""
    images = original(draw)
    made = [[make(*item) for item in zip(images, draw.hashed(name), strict=True)] for name in names]
    return torch.cat([images, *map(torch.stack, made)], 1)


@dataclass(frozen=True)
class Views:
    """A function that makes the views, and how many copies of each image it needs."""

    make: Callable[[Draw], Tensor]
    copies: int = 0


VIEWS: Mapping[str, Views] = {
    "original": Views(original),
    "copy": Views(copy, copies=1),
    "two_copies": Views(two_copies, copies=2),
    "copy_of_class": Views(copy_of_class, copies=1),
    "jitter": Views(jittered),
    "augmix": Views(augmixed),
}
