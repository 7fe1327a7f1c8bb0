"""Colour jitter: the same picture in other colours, a partner that keeps every texture."""

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

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
