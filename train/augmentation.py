"""Image presets: one random crop and flip for both images of a pair, and the resize of a test image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from stylize.errors import InputError
from train.decoding import Pixels

PAPER_SIZE = 224
LARGEST_SMALL_SIZE = 128
IMAGE_PRESETS = ("auto", "paper", "small")


@dataclass(frozen=True)
class ImagePreset:
    """`augment(samples, entropies)` for training and `resize(images)` for evaluation.

    `augment` takes uint8 images (V, H, W, 3) of each of N scenes and returns (N, V, 3, size, size), channels last in
    memory.  An entropy is an integer in [0, 2**64): equal ones give equal crops and flips, so the caller decides what
    randomness depends on.  `resize` takes (V, 3, H, W) and returns (V, 3, size, size).
    """

    name: str
    size: int
    augment: Callable[[Sequence[Pixels], Sequence[int]], Tensor]
    resize: Callable[[Tensor], Tensor]


def image_preset(name: str, size: int | None) -> ImagePreset:
    """Return the preset `small` (images of one small size), `paper` (224 px) or `auto` (small up to 128 px).

    `size` is the side of all images in the shards, None where they differ; `paper` does not look at it.
    """
    if name not in IMAGE_PRESETS:
        raise InputError(f"Unknown image preset {name!r}: choose one of {', '.join(IMAGE_PRESETS)}.")
    if name == "auto":
        name = "small" if size is not None and size <= LARGEST_SMALL_SIZE else "paper"
    if name == "paper":
        return ImagePreset("paper", PAPER_SIZE, _paper_augment, partial(resize_square, size=PAPER_SIZE))
    if size is None or size < 1:
        raise InputError(f"The image preset 'small' needs images of one size, not {size}: use the preset 'paper'.")
    return ImagePreset("small", size, partial(_small_augment, size=size), partial(resize_square, size=size))


def resize_square(images: Tensor, size: int) -> Tensor:
    """Resize (V, 3, H, W) to (V, 3, size, size), bilinear with antialiasing; images of that size stay untouched."""
    if images.shape[-2:] == (size, size):
        return images
    resized: Tensor = functional.resize(images, [size, size], InterpolationMode.BILINEAR, antialias=True)
    return resized


def _small_augment(samples: Sequence[Pixels], entropies: Sequence[int], size: int) -> Tensor:
    """Reflect size/8 pixels at every border, crop back to `size` and flip: the usual recipe for CIFAR.

    Whole rows and pixels are moved, by NumPy: several times faster than padding or indexing tensors.
    """
    padding = size // 8
    cropped = np.empty((len(samples), *samples[0].shape), np.uint8)
    for images, entropy, target in zip(samples, entropies, cropped, strict=True):
        rest, top = divmod(entropy, 2 * padding + 1)
        rest, left = divmod(rest, 2 * padding + 1)
        rows = images.reshape(len(images), size, -1).take(_mirrored(size, top - padding), axis=1)
        _shift_columns(rows.view("V3"), target.view("V3")[..., 0], left - padding)
        if rest % 2 == 1:
            flipped = torch.from_numpy(target)
            flipped.copy_(flipped.flip(2))  # NumPy's copy of reversed pixels takes longer
    return torch.from_numpy(cropped).permute(0, 1, 4, 2, 3)


@cache
def _mirrored(size: int, start: int) -> NDArray[np.intp]:
    """Return the places of `size` rows from `start` on, mirrored at the borders 0 and size - 1."""
    places = np.abs(np.arange(start, start + size))
    mirrored: NDArray[np.intp] = np.minimum(places, 2 * (size - 1) - places)
    return mirrored


def _shift_columns(source: NDArray[np.void], target: NDArray[np.void], start: int) -> None:
    """Fill (V, H, W) pixels of three bytes with the source's from column `start` on, mirrored at the borders."""
    size = source.shape[2]
    if start < 0:
        target[..., -start:], target[..., :-start] = source[..., :start], source[..., -start:0:-1]
    else:
        target[..., : size - start] = source[..., start:]
        target[..., size - start :] = source[..., size - 1 - start : size - 1][..., ::-1]


_PAPER_RECIPE = v2.Compose([v2.RandomResizedCrop(PAPER_SIZE, antialias=True), v2.RandomHorizontalFlip()])


def _paper_augment(samples: Sequence[Pixels], entropies: Sequence[int]) -> Tensor:
    """Crop a random part, resize it to 224 × 224 and flip (paper's code, which resizes to 330 pixels before).

    Sizes and places of crops are relative to the picture's, so the distribution is the same up to rounding to pixels,
    and one resampling is enough: faster, and sharper.
    """
    cropped = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator: lend it ours
        for images, entropy in zip(samples, entropies, strict=True):
            torch.default_generator.manual_seed(entropy)
            cropped.append(_PAPER_RECIPE(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    return torch.stack(cropped).permute(0, 1, 4, 2, 3)
