"""What PyTorch does slowly on channels-last data: borders and channel statistics, with their gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STATISTICS_EPSILON = 1e-5


def bordered(activations: Tensor, distance: int) -> Tensor:
    """Add a border of one pixel to (B, C, H, W): its pixels are copies from `distance` inside the edge, 0 or 1."""
    images, channels, height, width = activations.shape
    padded = torch.empty(
        (images, channels, height + 2, width + 2),
        dtype=activations.dtype,
        device=activations.device,
        memory_format=torch.channels_last,
    )
    padded[..., 1:-1, 1:-1] = activations
    padded[..., 1:-1, 0] = activations[..., distance]
    padded[..., 1:-1, -1] = activations[..., -1 - distance]
    padded[..., 0, :] = padded[..., 1 + distance, :]
    padded[..., -1, :] = padded[..., -2 - distance, :]
    return padded


class _Reflection(torch.autograd.Function):
    """Reflection padding by one pixel, whose gradient adds every border pixel's to the pixel that it copies."""

    @staticmethod
    def forward(ctx: Any, activations: Tensor) -> Tensor:
        return bordered(activations, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        rows = gradient[..., 1:-1].clone(memory_format=torch.channels_last)
        rows[..., 1] += gradient[..., 0]
        rows[..., -2] += gradient[..., -1]
        inner = rows[..., 1:-1, :]
        inner[..., 1, :] += rows[..., 0, :]
        inner[..., -2, :] += rows[..., -1, :]
        return inner


def reflected(activations: Tensor) -> Tensor:
    """Reflect (B, C, H, W) by one pixel at every edge.

    PyTorch's own kernel for GPUs knows no channels last, its gradient is slow on CPUs, and autocast pads in float32.
    """
    if torch.is_inference_mode_enabled() and not activations.is_cuda:
        return F.pad(activations, (1, 1, 1, 1), mode="reflect")
    padded: Tensor = _Reflection.apply(activations)
    return padded


def replicated(activations: Tensor) -> Tensor:
    """Repeat the edge pixels of (B, C, H, W) once; not differentiable on GPUs."""
    return bordered(activations, 0) if activations.is_cuda else F.pad(activations, (1, 1, 1, 1), mode="replicate")


class ReflectedConvolution(nn.Conv2d):
    """A 3×3 convolution with reflection padding: (B, C, H, W) to (B, K, H, W)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, kernel_size=3, padding=1, padding_mode="reflect")

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(reflected(input), self.weight, self.bias)


def _positions(features: Tensor) -> Tensor:
    """View (B, C, H, W), channels last, as (B, H · W, C)."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def _per_channel(values: Tensor) -> Tensor:
    """View (B, 1, C) as (B, C, 1, 1)."""
    return values.transpose(1, 2).unsqueeze(-1)


class _Statistics(torch.autograd.Function):
    """Means and deviations over the positions, by two passes in float32."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        positions = _positions(features).to(torch.float32, copy=True)  # subtracting in mixed types is slow on CPUs
        means = positions.mean(dim=1, keepdim=True)
        variances = positions.sub_(means).square_().mean(dim=1, keepdim=True)
        mean, deviation = _per_channel(means), _per_channel((variances + STATISTICS_EPSILON).sqrt())
        ctx.save_for_backward(features, mean, deviation)
        return mean, deviation

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_mean, of_deviation = gradients
        features, mean, deviation = ctx.saved_tensors
        positions = features.shape[2] * features.shape[3]
        slope = of_deviation / (positions * deviation)
        offset = of_mean / positions - slope * mean
        return torch.addcmul(offset.to(features.dtype), slope.to(features.dtype), features)


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel of (B, C, H, W), each (B, C, 1, 1), in float32.

    The deviation is biased (divided by n) with 1e-5 added to the variance, as in the authors' Torch code.
    """
    mean, deviation = _Statistics.apply(features)
    return mean, deviation
