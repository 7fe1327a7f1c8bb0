"""AugMix (Hendrycks et al. 2020, arXiv:1912.02781): chains of picture operations, mixed at random with the picture."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from train.views.jitter import to_picture, to_tensor

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
