"""What training does to images: the same crop and flip for both of a pair, and the partners that methods ask for.

Importing torchvision's transforms takes seconds: the functions that need them do it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stylize.console import InputError
from train.config import IMAGE_PRESETS
from train.dataset import Pixels, hashed

PAPER_SIZE = 224
LARGEST_SMALL_SIZE = 128


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


def image_preset(name: str, size: int | None, augment: str = "none") -> ImagePreset:
    """Return the preset `small` (images of one small size), `paper` (224 px) or `auto` (small up to 128 px).

    `size` is the side of all images in the shards, None where they differ; `paper` does not look at it.  With `augment`
    "trivial", TrivialAugment (Müller & Hutter 2021) follows crop and flip, the same for all images of a scene.
    """
    if augment == "trivial":
        plain = image_preset(name, size)
        return replace(plain, augment=partial(_trivial_augment, plain.augment))
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
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

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


@cache
def _paper_recipe() -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    recipe: nn.Module = v2.Compose([v2.RandomResizedCrop(PAPER_SIZE, antialias=True), v2.RandomHorizontalFlip()])
    return recipe


def _paper_augment(samples: Sequence[Pixels], entropies: Sequence[int]) -> Tensor:
    """Crop a random part, resize it to 224 × 224 and flip (paper's code, which resizes to 330 pixels before).

    Sizes and places of crops are relative to the picture's, so the distribution is the same up to rounding to pixels,
    and one resampling is enough: faster, and sharper.
    """
    cropped = _seeded(_paper_recipe(), (torch.from_numpy(images).permute(0, 3, 1, 2) for images in samples), entropies)
    return torch.stack([images.permute(0, 2, 3, 1) for images in cropped]).permute(0, 1, 4, 2, 3)


def _seeded(transform: Callable[[Tensor], Tensor], inputs: Iterable[Tensor], seeds: Iterable[int]) -> list[Tensor]:
    """Apply a random transform to each input with a seed of its own; the global generator is left as it was."""
    outputs = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        for tensor, seed in zip(inputs, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            outputs.append(transform(tensor))
    return outputs


def _trivial_augment(
    crop: Callable[[Sequence[Pixels], Sequence[int]], Tensor], samples: Sequence[Pixels], entropies: Sequence[int]
) -> Tensor:
    from torchvision.transforms import v2

    images, seeds = crop(samples, entropies), (hashed("trivial", entropy) for entropy in entropies)
    return torch.stack(_seeded(v2.TrivialAugmentWide(), images, seeds))


def jitter(image: Tensor) -> Tensor:
    """Return a uint8 image (3, H, W) with random brightness, contrast, saturation and hue; Pillow's code is faster."""
    from torchvision.transforms.v2 import ColorJitter, functional

    change = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    jittered: Tensor = functional.pil_to_tensor(change(functional.to_pil_image(image)))
    return jittered


def augmix(image: Tensor) -> Tensor:
    """Return a random mixture of a uint8 image (3, H, W) and three chains of operations on it (AugMix).

    As by Hendrycks et al. (2020) the chains have one to three operations, none of them a corruption of ImageNet-C.
    Their levels are uniform up to 3 of 10; torchvision's four are 0, 1/9, 2/9 and 3/9 of the greatest.
    """
    from torchvision.transforms import v2

    mixture: Tensor = v2.AugMix(severity=4, mixture_width=3, chain_depth=-1, alpha=1.0, all_ops=False)(image)
    return mixture


class Samples(Protocol):
    """Images with K copies each, of which any can be read, as `PairedShards` has them."""

    keys: Any
    labels: Any
    copies: int

    def read_many(self, indices: Sequence[int], images: Sequence[Sequence[int]]) -> list[Pixels]:
        """Return the chosen images of each sample, V of each, as uint8 (V, H, W, 3)."""


@dataclass(frozen=True)
class SampleBatch:
    """N samples in one epoch: everything random about each is a hash of (seed, epoch, key).

    `by_class` are, for each label, the ascending indices of the samples that are trained on.  A `stylized_fraction` of
    the samples show copies, the others their original in the copies' places.
    """

    samples: Samples
    by_class: Sequence[NDArray[np.int64]]
    preset: ImagePreset
    seed: int
    epoch: int
    indices: Sequence[int]
    stylized_fraction: float = 1.0

    def hashed(self, what: object) -> list[int]:
        """Return an integer in [0, 2**64) for each sample, that depends on (seed, epoch, key, what) alone."""
        return [hashed(self.seed, self.epoch, self.samples.keys[index], what) for index in self.indices]

    def augmented(self, images: Sequence[Sequence[int]], indices: Sequence[int] | None = None) -> Tensor:
        """Return the chosen images of each sample, cropped and flipped alike: uint8 (N, V, 3, size, size).

        They are those of the samples `indices` where these are given, cropped as the batch's own.
        """
        pixels = self.samples.read_many(self.indices if indices is None else indices, images)
        return self.preset.augment(pixels, self.hashed("augmentation"))

    def copies(self, what: str) -> list[int]:
        """Return one of the copies of each sample, 1 to K, or 0 where it shows its original instead."""
        shown = [entropy < self.stylized_fraction * 2**64 for entropy in self.hashed("stylized")]
        chosen = [1 + entropy % self.samples.copies for entropy in self.hashed(what)]
        return [copy if show else 0 for copy, show in zip(chosen, shown, strict=True)]


def original(batch: SampleBatch) -> Tensor:
    """Return the originals: uint8 (N, 1, 3, size, size)."""
    return batch.augmented([[0]] * len(batch.indices))


def copy(batch: SampleBatch) -> Tensor:
    """Return the originals and one of the copies of each: uint8 (N, 2, 3, size, size)."""
    return batch.augmented([[0, chosen] for chosen in batch.copies("copy")])


def two_copies(batch: SampleBatch) -> Tensor:
    """Return the originals and two different copies of each: uint8 (N, 3, 3, size, size)."""
    copies, entropies = batch.samples.copies, batch.hashed("second copy")
    chosen = [
        [0, first, 1 + (first + entropy % (copies - 1)) % copies if first else 0]
        for first, entropy in zip(batch.copies("copy"), entropies, strict=True)
    ]
    return batch.augmented(chosen)


def copy_of_class(batch: SampleBatch) -> Tensor:
    """Return the originals and a copy of another training image of the class of each: uint8 (N, 2, 3, size, size).

    A class's only image is its own partner.  Both get the same crop and flip, though they may differ in size.
    """
    partners = [
        _partner(batch.by_class[batch.samples.labels[index]], index, entropy)
        for index, entropy in zip(batch.indices, batch.hashed("partner"), strict=True)
    ]
    copies = batch.augmented([[chosen] for chosen in batch.copies("copy")], partners)
    return torch.cat([original(batch), copies], 1)


def _partner(others: NDArray[np.int64], index: int, entropy: int) -> int:
    """Return another of the ascending indices, which hold `index`."""
    place = int(np.searchsorted(others, index))
    return int(others[(place + 1 + entropy % max(1, len(others) - 1)) % len(others)])


def jittered(batch: SampleBatch) -> Tensor:
    """Return the originals and a copy of each in other colours: uint8 (N, 2, 3, size, size)."""
    return _with_random(batch, jitter, "jitter")


def augmixed(batch: SampleBatch) -> Tensor:
    """Return the originals and two mixtures of each by AugMix: uint8 (N, 3, 3, size, size)."""
    return _with_random(batch, augmix, "augmix 0", "augmix 1")


def _with_random(batch: SampleBatch, transform: Callable[[Tensor], Tensor], *names: str) -> Tensor:
    """Return the originals and, once a name, what the transform makes of each with random numbers of its own."""
    images = original(batch)
    made = [torch.stack(_seeded(transform, images[:, 0], batch.hashed(name))) for name in names]
    return torch.cat([images, torch.stack(made, 1)], 1)


@dataclass(frozen=True)
class Views:
    """A function that makes the views, how many copies of each image it needs, and whether it reads other images."""

    make: Callable[[SampleBatch], Tensor]
    copies: int = 0
    others: bool = False


VIEWS: Mapping[str, Views] = {
    "original": Views(original),
    "copy": Views(copy, copies=1),
    "two_copies": Views(two_copies, copies=2),
    "copy_of_class": Views(copy_of_class, copies=1, others=True),
    "jitter": Views(jittered),
    "augmix": Views(augmixed),
}
