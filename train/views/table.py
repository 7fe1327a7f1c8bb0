"""Views of a sample by name: which images a method is given, all with the same crop and flip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.augmentation import ImagePreset
from train.order import hashed
from train.pairs import PairDataset
from train.views.augmix import augmix
from train.views.jitter import jitter


@dataclass(frozen=True)
class Draw:
    """One sample in one epoch: everything random about it is a hash of (seed, epoch, key)."""

    samples: PairDataset
    preset: ImagePreset
    seed: int
    epoch: int
    index: int

    def hashed(self, what: object) -> int:
        """Return an integer in [0, 2**64) that depends on (seed, epoch, key, what) alone."""
        return hashed(self.seed, self.epoch, self.samples.keys[self.index], what)

    def augmented(self, pixels: Tensor) -> Tensor:
        """Return uint8 images (V, 3, H, W) cropped and flipped alike: (V, 3, size, size)."""
        return self.preset.augment(pixels, self.hashed("augmentation"))


def original(draw: Draw) -> Tensor:
    """Return the original: uint8 (1, 3, size, size)."""
    return draw.augmented(draw.samples.read(draw.index, [0]))


def copy(draw: Draw) -> Tensor:
    """Return the original and one of its copies: uint8 (2, 3, size, size)."""
    chosen = 1 + draw.hashed("copy") % draw.samples.copies
    return draw.augmented(draw.samples.read(draw.index, [0, chosen]))


def two_copies(draw: Draw) -> Tensor:
    """Return the original and two different copies: uint8 (3, 3, size, size)."""
    copies = draw.samples.copies
    first = draw.hashed("copy") % copies
    second = (first + 1 + draw.hashed("second copy") % (copies - 1)) % copies
    return draw.augmented(draw.samples.read(draw.index, [0, 1 + first, 1 + second]))


def copy_of_class(draw: Draw) -> Tensor:
    """Return the original and a copy of another image of its class: uint8 (2, 3, size, size).

    A class's only image is its own partner.  Both get the same crop and flip, though they may differ in size.
    """
    samples = draw.samples
    others = samples.of_class(samples.labels[draw.index])
    place = int(np.searchsorted(others, draw.index))
    other = int(others[(place + 1 + draw.hashed("partner") % max(1, len(others) - 1)) % len(others)])
    chosen = 1 + draw.hashed("copy") % samples.copies
    images = samples.read(draw.index, [0]), samples.read(other, [chosen])
    return torch.cat([draw.augmented(image) for image in images])


def jittered(draw: Draw) -> Tensor:
    """Return the original and a copy of it in other colours: uint8 (2, 3, size, size)."""
    image = original(draw)
    return torch.cat([image, jitter(image, draw.hashed("jitter"))])


def augmixed(draw: Draw) -> Tensor:
    """Return the original and two of its mixtures by AugMix: uint8 (3, 3, size, size)."""
    image = original(draw)
    return torch.cat([image, *(augmix(image, draw.hashed(f"augmix {k}")) for k in range(2))])


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
