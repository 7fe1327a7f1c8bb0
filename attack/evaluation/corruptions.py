"""A small home-made sweep of image corruptions, by torchvision's transforms; not the published CIFAR-10-C.

Each function takes pixels (3, H, W) in [0, 1], a strength and a random generator, and returns pixels of that shape.
"""

import hashlib
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
SEVERITIES = (1, 2, 3)


def gaussian_noise(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Add noise; the strength is its standard deviation."""
    return pixels + strength * torch.randn(pixels.shape, generator=generator)


def impulse_noise(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Make a share of the pixels black or white."""
    chosen, white = torch.rand((2, *pixels.shape[1:]), generator=generator)
    return torch.where(chosen < strength, (white < 0.5).float(), pixels)


def gaussian_blur(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blur; the strength is the Gaussian's standard deviation in shares of the shorter side."""
    sigma = strength * min(pixels.shape[1:])
    blurred: Tensor = F.gaussian_blur(pixels, [2 * round(3 * sigma) + 1] * 2, [sigma])
    return blurred


def pixelate(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Reduce to a share of the side, and enlarge again without smoothing."""
    size = list(pixels.shape[1:])
    small = F.resize(pixels, [max(1, round(strength * side)) for side in size], antialias=True)
    large: Tensor = F.resize(small, size, InterpolationMode.NEAREST)
    return large


def brightness(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply by the strength."""
    brighter: Tensor = F.adjust_brightness(pixels, strength)
    return brighter


def contrast(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Shrink the differences from the mean grey to a share."""
    paler: Tensor = F.adjust_contrast(pixels, strength)
    return paler


def jpeg(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Compress as JPEG of a quality from 1 to 100; by Pillow, because torchvision's encoder is on its way out."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(pixels).permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=int(strength))
    with Image.open(buffer) as compressed:
        return torch.from_numpy(np.array(compressed)).permute(2, 0, 1) / 255


# Name: function, and its strength at the severities 1, 2 and 3.
HOME_MADE: dict[str, tuple[Corruption, tuple[float, float, float]]] = {
    "gaussian noise": (gaussian_noise, (0.04, 0.08, 0.12)),
    "impulse noise": (impulse_noise, (0.01, 0.03, 0.06)),
    "gaussian blur": (gaussian_blur, (0.01, 0.02, 0.03)),
    "pixelate": (pixelate, (0.75, 0.5, 0.35)),
    "brightness": (brightness, (1.25, 1.5, 1.75)),
    "contrast": (contrast, (0.7, 0.5, 0.3)),
    "jpeg": (jpeg, (50, 25, 10)),
}


def corrupt(pixels: Tensor, name: str, severity: int, seed: int, key: str) -> Tensor:
    """Corrupt one image (3, H, W) and round it to 8 bits; it depends on the arguments alone, not on other images."""
    function, strengths = HOME_MADE[name]
    digest = hashlib.sha256(f"{seed}:{name}:{severity}:{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return to_uint8(function(pixels, strengths[severity - 1], generator)) / 255


def to_uint8(pixels: Tensor) -> Tensor:
    """Round pixels, clipped to [0, 1], to 8 bits."""
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)
