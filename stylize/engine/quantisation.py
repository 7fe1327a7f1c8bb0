"""Int8 convolutions: ranges, rounded weights and corrected biases, found in float32 on calibration activations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.networks.adain import Layer

LEVELS = 255  # steps of an 8-bit activation
WEIGHT_LEVEL = 127  # the largest 8-bit weight; symmetric
SEARCHED_VALUES = 60_000  # of a layer's activations, to find its range
# Candidate upper ends of a range, a fixed grid of powers of two, so that a last bit of an activation moves none.
RANGE_STEPS = torch.arange(-64, 97) / 8
SMALLEST_PEAK = 2.0**-8  # the first of the grid, for layers that are silent
SMALLEST_SHARE = 1e-2  # of the loudest channel's peak, so that a silent channel's range is not empty


@dataclass(frozen=True)
class QuantisedConvolution:
    """A reflection-padded 3×3 convolution of inputs rounded to 256 levels from `low` to `high`, each (1, C, 1, 1).

    Rounded inputs are expressed in [0, 1] for every channel; `weight`, int8 (C', C, 3, 3), its factor `scale`
    (C', 1, 1, 1) and `bias` (C',) take up the channels' ranges, exactly, as reflection pads with values of the channel.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor

    def rounded_input(self, activations: Tensor) -> Tensor:
        """Return what the convolution sees of float32 activations."""
        return ((activations - self.low) / (self.high - self.low) * LEVELS).round().clamp(0, LEVELS) / LEVELS

    def __call__(self, activations: Tensor) -> Tensor:
        """Return the output in float32, (B, C', H, W)."""
        padded = F.pad(self.rounded_input(activations), (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.weight.float() * self.scale, self.bias)


def quantise_chain(
    layers: Sequence[Layer],
    activations: Tensor,
    first: tuple[Tensor, Tensor],
    headroom: float = 1.0,
) -> list[QuantisedConvolution]:
    """Quantise a network's convolutions one after the other, each on what the ones before it now give.

    Args:
        layers: The layers in their order.
        activations: Calibration input (N, C, H, W).
        first: Lower and upper end of the first convolution's input, each (1, C, 1, 1).
        headroom: Factor of the other ranges, for inputs with higher peaks than the calibration's.
    """
    chain: list[QuantisedConvolution] = []
    exact = rounded = activations
    for layer in layers:
        exact, rounded = layer.resample(exact), layer.resample(rounded)
        low, high = best_range(exact, headroom) if chain else first
        wanted = layer.convolution(exact)
        quantised = _quantise(layer.convolution, low, high)
        found = quantised(rounded)
        shift = (wanted - found).mean((0, 2, 3))  # of a channel's mean by rounding, in the layers before too
        chain.append(replace(quantised, bias=quantised.bias + shift))
        exact, rounded = F.relu(wanted), F.relu(found + shift[:, None, None])
    return chain


def _quantise(convolution: nn.Conv2d, low: Tensor, high: Tensor) -> QuantisedConvolution:
    """Round a convolution's weights, into which the ranges of its input's channels are folded."""
    weight, bias = convolution.weight.detach(), cast("Tensor", convolution.bias).detach()
    gain, offset = high - low, torch.einsum("oihw,i->o", weight, low.flatten().expand(weight.shape[1]))
    weight = weight * gain
    scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / WEIGHT_LEVEL
    levels = (weight / scale).round().to(torch.int8)
    return QuantisedConvolution(low, high, levels, scale, bias + offset)


def best_range(activations: Tensor, headroom: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return a range from 0 for every channel of non-negative activations (N, C, H, W), each end (1, C, 1, 1).

    Half of the channels' differences (in powers) goes to the next weights, half stays (SmoothQuant, equation 4).
    """
    peaks = activations.amax((0, 2, 3), keepdim=True)
    share = (peaks / peaks.max().clamp_min(SMALLEST_PEAK)).clamp_min(SMALLEST_SHARE).sqrt()
    high = best_upper_end(activations / share) * share * headroom
    return torch.zeros_like(high), high


def best_upper_end(activations: Tensor) -> Tensor:
    """Return the end (1, 1, 1, 1) of the range from 0 that rounds non-negative activations with the least error."""
    values = activations.flatten()
    values = values[:: max(1, len(values) // SEARCHED_VALUES) | 1]
    peak = values.max().clamp_min(SMALLEST_PEAK)
    ends = [end for end in 2**RANGE_STEPS if 0.1 * peak <= end <= 1.2 * peak]
    errors = [_rounding_error(values, end) for end in ends]
    best: Tensor = ends[errors.index(min(errors))]
    return best.reshape(1, 1, 1, 1)


def _rounding_error(values: Tensor, end: Tensor) -> float:
    return float((values - (values / end * LEVELS).round().clamp(0, LEVELS) / LEVELS * end).square().mean())
