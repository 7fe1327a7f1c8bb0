"""Normalise an encoder: rescale its filters so that each one's mean activation over natural images is 1.

Without it the channels' scales differ by orders of magnitude and decoders train badly (Gatys et al. 2016, §2).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from stylize.networks import Encoder


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
