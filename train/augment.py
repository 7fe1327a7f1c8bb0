"""What training does to images: the same crop and flip for both of a pair, and the partners that methods ask for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from stylize.console import InputError
from train.pairs import PairDataset, Pixels, hashed

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


STRENGTH = 0.4  # of brightness, contrast and saturation
HUE = 0.1  # of the colour circle


def jitter(image: Tensor, entropy: int) -> Tensor:
    """Return a uint8 image (1, 3, H, W) in other colours, by an integer in [0, 2**64).

    Brightness, contrast, saturation and hue change in this order, by factors uniform in 1 ± 0.4 and a turn uniform in
    ± 0.1 of the circle; torchvision's `ColorJitter(0.4, 0.4, 0.4, 0.1)` takes them in random order.
    """
    rng = np.random.default_rng(entropy)
    picture = to_picture(image)
    for enhancement in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhancement(picture).enhance(rng.uniform(1 - STRENGTH, 1 + STRENGTH))
    hue, *others = picture.convert("HSV").split()
    shift = round(256 * rng.uniform(-HUE, HUE)) % 256
    turned = hue.point([(value + shift) % 256 for value in range(256)])
    return to_tensor(np.asarray(Image.merge("HSV", (turned, *others)).convert("RGB")))


def to_picture(image: Tensor) -> Image.Image:
    """Return a uint8 image (1, 3, H, W) as a picture."""
    return Image.fromarray(np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()))


def to_tensor(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """Return pixels (H, W, 3) as uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))


Operation = Callable[[Image.Image, np.random.Generator], Image.Image]
SEVERITY, WIDTH, DEEPEST = 3, 3, 3  # as published: levels up to 3 of 10, three chains of one to three operations


def augmix(image: Tensor, entropy: int) -> Tensor:
    """Return a mixture of a uint8 image (1, 3, H, W) by an integer in [0, 2**64): m · x + (1 − m) · Σ wᵢ chainᵢ(x).

    m is from Beta(1, 1) and w from Dirichlet(1, 1, 1).  Rounded to 8 bits, which the published code does not do.
    """
    rng = np.random.default_rng(entropy)
    picture = to_picture(image)
    weights, share = rng.dirichlet([1.0] * WIDTH), rng.beta(1, 1)
    mixture = share * np.asarray(picture, np.float64)
    for weight in weights:
        chain = picture
        for _ in range(rng.integers(1, DEEPEST + 1)):
            chain = OPERATIONS[rng.integers(len(OPERATIONS))](chain, rng)
        mixture += (1 - share) * weight * np.asarray(chain, np.float64)
    return to_tensor(np.rint(mixture).clip(0, 255).astype(np.uint8))


def _level(rng: np.random.Generator, greatest: float) -> float:
    """Return a random level of at most SEVERITY in 10 of the greatest."""
    return float(rng.uniform(0.1, SEVERITY)) * greatest / 10


def _signed(rng: np.random.Generator, greatest: float) -> float:
    return _level(rng, greatest) * (-1 if rng.random() < 0.5 else 1)


def _moved(picture: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def _posterize(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.posterize(picture, 4 - int(_level(rng, 4)))


def _rotate(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.rotate(int(_signed(rng, 30)), resample=Image.Resampling.BILINEAR)


def _solarize(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(picture, 256 - int(_level(rng, 256)))


def _shear_x(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, _signed(rng, 0.3), 0, 0, 1, 0))


def _shear_y(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, 0, 0, _signed(rng, 0.3), 1, 0))


def _translate_x(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, 0, int(_signed(rng, picture.width / 3)), 0, 1, 0))


def _translate_y(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0, 1, int(_signed(rng, picture.height / 3))))


OPERATIONS: tuple[Operation, ...] = (  # those of the published code that are no corruptions of ImageNet-C
    lambda picture, _: ImageOps.autocontrast(picture),
    lambda picture, _: ImageOps.equalize(picture),
    _posterize,
    _rotate,
    _solarize,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)


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
