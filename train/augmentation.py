"""Image presets: one random crop and flip for both images of a pair, and the resize of a test image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from stylize.errors import InputError

PAPER_SIZE = 224
LARGEST_SMALL_SIZE = 128
IMAGE_PRESETS = ("auto", "paper", "small")


@dataclass(frozen=True)
class ImagePreset:
    """`augment(images, entropy)` for training and `resize(images)` for evaluation.

    Both take uint8 images (V, 3, H, W) that show one scene and return (V, 3, size, size).  `entropy` is an integer in
    [0, 2**64): equal values give equal crops and flips, so the caller decides what randomness depends on.
    """

    name: str
    size: int
    augment: Callable[[Tensor, int], Tensor]
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


def _small_augment(images: Tensor, entropy: int, size: int) -> Tensor:
    """Reflect size/8 pixels at every border, crop back to `size` and flip: the usual recipe for CIFAR.

    Whole pixels are moved, by NumPy: a few times faster than padding or indexing tensors.
    """
    padding = size // 8
    entropy, top = divmod(entropy, 2 * padding + 1)
    entropy, left = divmod(entropy, 2 * padding + 1)
    pixels = _pixels(resize_square(images, size).permute(0, 2, 3, 1).numpy())
    rows, cropped = np.empty_like(pixels), np.empty_like(pixels)
    _shift(pixels.transpose(1, 2, 0), rows.transpose(1, 2, 0), top - padding)
    _shift(rows.transpose(2, 1, 0), cropped.transpose(2, 1, 0), left - padding)
    moved = torch.from_numpy(cropped[..., None].view(np.uint8)).permute(0, 3, 1, 2)
    return moved.flip(3) if entropy % 2 else moved


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.void]:
    """View images (V, H, W, 3) as pixels of three bytes (V, H, W), which are copied in one piece."""
    pixels: NDArray[np.void] = np.ascontiguousarray(images).view("V3")[..., 0]
    return pixels


def _shift(source: NDArray[np.void], target: NDArray[np.void], start: int) -> None:
    """Fill a target of N rows with the source's from `start` on, mirrored at the borders 0 and N - 1."""
    size = len(source)
    if start < 0:
        target[-start:], target[:-start] = source[:start], source[-start:0:-1]
    else:
        target[: size - start], target[size - start :] = source[start:], source[size - 1 - start : size - 1][::-1]


_PAPER_RECIPE = v2.Compose([v2.RandomResizedCrop(PAPER_SIZE, antialias=True), v2.RandomHorizontalFlip()])


def _paper_augment(images: Tensor, entropy: int) -> Tensor:
    """Crop a random part, resize it to 224 × 224 and flip (paper's code, which resizes to 330 pixels before).

    Sizes and places of crops are relative to the picture's, so the distribution is the same up to rounding to pixels,
    and one resampling is enough: faster, and sharper.
    """
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator: lend it ours
        torch.default_generator.manual_seed(entropy)
        augmented: Tensor = _PAPER_RECIPE(images)
    return augmented
