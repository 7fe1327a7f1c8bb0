"""The AdaIN networks (Huang & Belongie 2017): VGG-19 encoder up to relu4_1, feature alignment, mirrored decoder."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.networks.channels_last import ReflectedConvolution, channel_statistics

# (input channels, output channels) of conv1_1 … conv4_1; a max-pooling follows the layers in POOLED.
ENCODER_CHANNELS = (
    (3, 64), (64, 64), (64, 128), (128, 128),
    (128, 256), (256, 256), (256, 256), (256, 256), (256, 512),
)  # fmt: skip
POOLED = frozenset({1, 3, 7})
UPSAMPLED = frozenset({0, 4, 6})  # the decoder's layers, counted from its input, that up-sampling follows
STYLE_LAYERS = (0, 2, 4, 8)  # relu1_1, relu2_1, relu3_1, relu4_1
STRIDE = 8  # relu4_1 has one position per 8×8 pixels
MIN_SIDE = 16  # below it, reflection padding has nothing to reflect at relu4_1


def _convolutions(channels: Iterable[tuple[int, int]]) -> Sequence[nn.Conv2d]:
    layers = (ReflectedConvolution(first, last) for first, last in channels)
    return cast("Sequence[nn.Conv2d]", nn.ModuleList(layers))


@dataclass(frozen=True)
class Layer:
    """One layer of either network: pooling or up-sampling by 2, a convolution, and ReLU but at the decoder's end."""

    resampling: Literal["pool", "upsample"] | None
    convolution: nn.Conv2d
    rectified: bool

    def resample(self, activations: Tensor) -> Tensor:
        """Return activations (B, C, h, w) as the convolution takes them."""
        if self.resampling == "pool":
            return F.max_pool2d(activations, 2)
        if self.resampling == "upsample":
            return F.interpolate(activations, scale_factor=2, mode="nearest")
        return activations

    def __call__(self, activations: Tensor) -> Tensor:
        """Run the layer on (B, C, h, w)."""
        output: Tensor = self.convolution(self.resample(activations))
        return F.relu(output, inplace=True) if self.rectified else output


class Encoder(nn.Module):
    """VGG-19 up to relu4_1 with reflection padding; input (B, 3, H, W) in [0, 1], RGB; H and W multiples of 8, ≥ 16."""

    convolutions: Sequence[nn.Conv2d]

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = _convolutions(ENCODER_CHANNELS)

    @property
    def chain(self) -> list[Layer]:
        """The layers in their order."""
        return [
            Layer("pool" if index - 1 in POOLED else None, convolution, rectified=True)
            for index, convolution in enumerate(self.convolutions)
        ]

    def layers(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the activations after every ReLU, relu1_1 … relu4_1."""
        activations = pixels
        for layer in self.chain:
            activations = layer(activations)
            yield activations

    def forward(self, pixels: Tensor) -> Tensor:
        """Return relu4_1, (B, 512, H/8, W/8)."""
        *_, features = self.layers(pixels)
        return features

    def style_features(self, pixels: Tensor) -> list[Tensor]:
        """Return relu1_1, relu2_1, relu3_1 and relu4_1, the layers of the style loss."""
        return [features for index, features in enumerate(self.layers(pixels)) if index in STYLE_LAYERS]


class Decoder(nn.Module):
    """The encoder mirrored, nearest up-sampling for pooling: (B, 512, h, w) to pixels (B, 3, 8h, 8w), not clipped."""

    convolutions: Sequence[nn.Conv2d]

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = _convolutions([(last, first) for first, last in reversed(ENCODER_CHANNELS)])

    @property
    def chain(self) -> list[Layer]:
        """The layers in their order."""
        last = len(self.convolutions) - 1
        return [
            Layer("upsample" if index - 1 in UPSAMPLED else None, convolution, rectified=index < last)
            for index, convolution in enumerate(self.convolutions)
        ]

    def forward(self, features: Tensor) -> Tensor:
        """Decode relu4_1 features to pixels."""
        for layer in self.chain:
            features = layer(features)
        return features


def unit_range(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 (B, 3, H, W) into pixels in [0, 1], channels last."""
    return pixels.to(dtype, memory_format=torch.channels_last).div_(255)


def adain(content: Tensor, style_mean: Tensor, style_deviation: Tensor, alpha: float = 1.0) -> Tensor:
    """Give content features (B, C, h, w) the channel statistics (B or 1, C, 1, 1) of a style (paper, equation 2).

    `alpha` in [0, 1] blends in feature space: 0 keeps the content's features, 1 aligns them fully.
    """
    mean, deviation = channel_statistics(content)
    scale = style_deviation / deviation
    gain = 1 + alpha * (scale - 1)
    offset = alpha * (style_mean - mean * scale)
    return (content.float() * gain + offset).to(content.dtype)


def pad_to_stride(pixels: Tensor) -> Tensor:
    """Reflect (B, 3, H, W) at the right and lower edge so that H and W are multiples of 8."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")


class Stylizer(nn.Module):
    """Encoder, AdaIN and decoder for inference: pixels in [0, 1] of any size ≥ 16 in, the same size out."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def style_statistics(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, deviation) at relu4_1 of style pictures (B, 3, H, W)."""
        return channel_statistics(self.encoder(pad_to_stride(pixels)))

    def forward(self, pixels: Tensor, style_mean: Tensor, style_deviation: Tensor, alpha: float = 1.0) -> Tensor:
        """Stylize (B, 3, H, W) in [0, 1] (paper, equations 3 and 4); returns the same shape, clipped to [0, 1]."""
        height, width = pixels.shape[-2:]
        target = adain(self.encoder(pad_to_stride(pixels)), style_mean, style_deviation, alpha)
        stylized: Tensor = self.decoder(target)
        return stylized[..., :height, :width].clamp(0, 1)


def stylization_flops(height: int, width: int) -> int:
    """Return the floating-point operations of all convolutions (2 per multiply-add) for one picture of H × W pixels."""
    positions, total = height * width, 0
    for index, (channels_in, channels_out) in enumerate(ENCODER_CHANNELS):
        total += 2 * 9 * channels_in * channels_out * positions
        if index in POOLED:
            positions //= 4
    return 2 * total  # the decoder mirrors the encoder
