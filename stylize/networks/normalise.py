"""Normalise an encoder: rescale its filters so that each one's mean activation over pictures is 1.

Without it the channels' scales differ by orders of magnitude and decoders train badly (Gatys et al. 2016, §2).
"""

import copy
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylize.drawn.patterns import PATTERN_NAMES, draw_pattern
from stylize.drawn.shapes import draw_shape
from stylize.networks.adain import Encoder, unit_range
from stylize.networks.embedded import rescale

SIDE = 64
SHAPES = 40
LEAST_SHARE = 0.1  # of the layer's mean: a channel that these pictures hardly excite must not explode on others


@torch.inference_mode()
def measure_mean_activations(encoder: Encoder, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return every convolution's mean activation per channel over images and positions, each (C,).

    `batches` are natural images (B, 3, H, W) in [0, 1]; every batch has the same weight.
    """
    totals: list[Tensor] = []
    count = 0
    for pixels in batches:
        count += 1
        means = [features.double().mean(dim=(0, 2, 3)) for features in encoder.layers(pixels)]
        totals = [total + mean for total, mean in zip(totals, means, strict=True)] if totals else means
    return [(total / count).float().clamp(min=1e-6) for total in totals]


def built_in_pictures() -> Iterator[Tensor]:
    """Yield the built-in patterns and some embedded images, each float64 (1, 3, 64, 64) in [0, 1]."""
    pictures = [draw_pattern(name, SIDE) for name in PATTERN_NAMES]
    pictures += [draw_shape(index, size=SIDE, split="train").picture for index in range(SHAPES)]
    return map(_pixels, pictures)


def _pixels(picture: Image.Image) -> Tensor:
    return unit_range(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None], torch.float64)


def normalise(encoder: Encoder, pictures: Iterable[Tensor]) -> None:
    """Normalise in place on float64 pictures, so that every machine gets the same weights to the last bit.

    Measured in float64 and rounded to three digits, the means do not depend on how a machine orders its sums.
    """
    means = measure_mean_activations(copy.deepcopy(encoder).double(), pictures)
    rescale(encoder, [_rounded(mean.clamp(min=LEAST_SHARE * float(mean.mean()))) for mean in means])


def _rounded(mean: Tensor) -> Tensor:
    return torch.tensor([float(f"{value:.3g}") for value in mean.tolist()])
