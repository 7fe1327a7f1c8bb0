"""The AdaIN networks (Huang & Belongie 2017): VGG-19 encoder up to relu4_1, feature alignment, mirrored decoder.

And the same rearranged for inference, with fewer multiplications.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

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

    PyTorch's own kernel for GPUs does not support channels last, its gradient is slow on CPUs, and autocast pads in
    float32. A compiler replaces the kernel, and cannot look for the inference mode.
    """
    if torch.compiler.is_compiling() or (torch.is_inference_mode_enabled() and not activations.is_cuda):
        return F.pad(activations, (1, 1, 1, 1), mode="reflect")
    padded: Tensor = _Reflection.apply(activations)
    return padded


def replicated(activations: Tensor) -> Tensor:
    """Repeat the edge pixels of (B, C, H, W) once; not differentiable on GPUs."""
    if activations.is_cuda and not torch.compiler.is_compiling():
        return bordered(activations, 0)
    return F.pad(activations, (1, 1, 1, 1), mode="replicate")


class _ReflectedConvolution(nn.Conv2d):
    """A 3×3 convolution with reflection padding: (B, C, H, W) to (B, K, H, W)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, kernel_size=3, padding=1, padding_mode="reflect")

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(reflected(input), self.weight, self.bias)


class _Statistics(torch.autograd.Function):
    """Means and standard deviations over the positions, by two passes in float32."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        positions = features.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H · W, C), a view of channels last
        positions = positions.to(torch.float32, copy=True)  # subtracting in mixed types is slow on CPUs
        means = positions.mean(dim=1, keepdim=True)
        variances = positions.sub_(means).square_().mean(dim=1, keepdim=True)
        stds = (variances + STATISTICS_EPSILON).sqrt()
        mean, std = (values.transpose(1, 2).unsqueeze(-1) for values in (means, stds))  # (B, C, 1, 1)
        ctx.save_for_backward(features, mean, std)
        return mean, std

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_mean, of_std = gradients
        features, mean, std = ctx.saved_tensors
        positions = features.shape[2] * features.shape[3]
        slope = of_std / (positions * std)
        offset = of_mean / positions - slope * mean
        return torch.addcmul(offset.to(features.dtype), slope.to(features.dtype), features)


def channel_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every channel of (B, C, H, W), each (B, C, 1, 1), in float32.

    The standard deviation is biased (divided by n) with 1e-5 added to the variance, as in the authors' Torch code.
    """
    mean, std = _Statistics.apply(features)
    return mean, std


# (input channels, output channels) of conv1_1 … conv4_1; a max-pooling follows the layers in POOLED.
ENCODER_CHANNELS = (
    (3, 64), (64, 64), (64, 128), (128, 128),
    (128, 256), (256, 256), (256, 256), (256, 256), (256, 512),
)  # fmt: skip
DECODER_CHANNELS = tuple((last, first) for first, last in reversed(ENCODER_CHANNELS))
POOLED = frozenset({1, 3, 7})
UPSAMPLED = frozenset({0, 4, 6})  # the decoder's layers, counted from its input, that up-sampling follows
STYLE_LAYERS = (0, 2, 4, 8)  # relu1_1, relu2_1, relu3_1, relu4_1
STRIDE = 8  # relu4_1 has one position per 8×8 pixels


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


class _Chain(nn.Module):
    """Convolutions with (input, output) `channels`; `resampling` follows the layers in `resampled`."""

    convolutions: Sequence[nn.Conv2d]
    channels: ClassVar[Sequence[tuple[int, int]]]
    resampling: ClassVar[Literal["pool", "upsample"]]
    resampled: ClassVar[frozenset[int]]

    def __init__(self) -> None:
        super().__init__()
        layers = (_ReflectedConvolution(first, last) for first, last in self.channels)
        self.convolutions = cast("Sequence[nn.Conv2d]", nn.ModuleList(layers))

    @property
    def chain(self) -> list[Layer]:
        """The layers in their order."""
        return [
            Layer(self.resampling if index - 1 in self.resampled else None, convolution, convolution.out_channels != 3)
            for index, convolution in enumerate(self.convolutions)
        ]

    def forward(self, activations: Tensor) -> Tensor:
        for layer in self.chain:
            activations = layer(activations)
        return activations


class Encoder(_Chain):
    """VGG-19 with reflection padding: (B, 3, H, W) in [0, 1], RGB, to relu4_1, (B, 512, H/8, W/8).

    H and W are multiples of 8, at least 16.
    """

    channels, resampling, resampled = ENCODER_CHANNELS, "pool", POOLED

    def layers(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the activations after every ReLU, relu1_1 … relu4_1."""
        for layer in self.chain:
            pixels = layer(pixels)
            yield pixels

    def style_features(self, pixels: Tensor) -> list[Tensor]:
        """Return relu1_1, relu2_1, relu3_1 and relu4_1, the layers of the style loss."""
        return [features for index, features in enumerate(self.layers(pixels)) if index in STYLE_LAYERS]


class Decoder(_Chain):
    """The encoder mirrored, nearest up-sampling for pooling: (B, 512, h, w) to pixels (B, 3, 8h, 8w), not clipped."""

    channels, resampling, resampled = DECODER_CHANNELS, "upsample", UPSAMPLED


def unit_range(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn uint8 (B, 3, H, W) into pixels in [0, 1], channels last."""
    return pixels.to(dtype, memory_format=torch.channels_last).div_(255)


def adain(content: Tensor, style_mean: Tensor, style_std: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
    """Give content features (B, C, h, w) the channel statistics (B or 1, C, 1, 1) of a style (paper, equation 2).

    `alpha` in [0, 1], or (B, 1, 1, 1), blends in feature space: 0 keeps the content's features, 1 aligns them fully.
    """
    mean, std = channel_statistics(content)
    scale = style_std / std
    gain = 1 + alpha * (scale - 1)
    offset = alpha * (style_mean - mean * scale)
    return (content.float() * gain + offset).to(content.dtype)


def pad_to_stride(pixels: Tensor) -> Tensor:
    """Reflect (B, 3, H, W) at the right and lower edge so that H and W are multiples of 8."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")


class AdaINNetwork(nn.Module):
    """Encoder, AdaIN and decoder for inference: pixels in [0, 1] of any size ≥ 16 in, the same size out."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def style_statistics(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, std) at relu4_1 of style pictures (B, 3, H, W)."""
        return channel_statistics(self.encoder(pad_to_stride(pixels)))

    def forward(self, pixels: Tensor, style_mean: Tensor, style_std: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        """Stylize (B, 3, H, W) in [0, 1] (paper, equations 3 and 4); returns the same shape, clipped to [0, 1]."""
        height, width = pixels.shape[-2:]
        target = adain(self.encoder(pad_to_stride(pixels)), style_mean, style_std, alpha)
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


TILE = 4  # outputs on a side
WINDOW = TILE + 2  # inputs on a side
BLOCK_TILES = 128  # that are worked on together: few, so that a core's cache holds them, but not too few for a product
# Bᵀ, G and Aᵀ of the paper, which transform the input, the filters and the products.
INPUT_TRANSFORM = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
FILTER_TRANSFORM = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
OUTPUT_TRANSFORM = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConvolution(nn.Module):
    """What a 3×3 convolution with reflection padding computes, for inference in float32 on a CPU.

    (B, C, H, W) to (B, K, H, W), channels last; equal to the convolution up to float32's rounding. A tile of 4×4
    outputs is Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A of its 6×6 inputs d and the filter g; a transform is one product with all 36.
    """

    filters: Tensor  # (36, C, K)
    bias: Tensor
    input_transform: Tensor  # (36, 36)
    output_transform: Tensor  # (16, 36)

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        transform = torch.tensor(FILTER_TRANSFORM, dtype=torch.float64)
        filters = torch.einsum("ai,kcij,bj->abck", transform, convolution.weight.detach().double(), transform)
        self.register_buffer("filters", filters.flatten(0, 1).float().contiguous())
        self.register_buffer("bias", cast("Tensor", convolution.bias).detach())
        for name, rows in (("input_transform", INPUT_TRANSFORM), ("output_transform", OUTPUT_TRANSFORM)):
            one_axis = torch.tensor(rows, dtype=torch.float32)
            self.register_buffer(name, torch.kron(one_axis, one_axis))

    def forward(self, activations: Tensor) -> Tensor:
        """Convolve in blocks of tiles: of several images, or of some rows of one; what exceeds the image is cut off."""
        height, width = activations.shape[-2:]
        padded = F.pad(activations, (1, 1, 1, 1), mode="reflect")
        if height % TILE or width % TILE:
            padded = F.pad(padded, (0, -width % TILE, 0, -height % TILE))
        # The inputs of all tiles, a view (6, 6, B, rows, columns, C).
        windows = padded.permute(0, 2, 3, 1).unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE).permute(4, 5, 0, 1, 2, 3)
        images, rows, columns = windows.shape[2:5]
        output = windows.new_empty(images, rows, TILE, columns, TILE, len(self.bias))
        block_rows = max(1, BLOCK_TILES // columns)
        image_step, row_step = max(1, block_rows // rows), min(rows, block_rows)
        for image in range(0, images, image_step):
            for row in range(0, rows, row_step):
                block = slice(image, image + image_step), slice(row, row + row_step)
                self._convolve(windows[:, :, *block], output[block])
        whole = output.view(images, rows * TILE, columns * TILE, -1).permute(0, 3, 1, 2)
        return whole[..., :height, :width].contiguous(memory_format=torch.channels_last)

    def _convolve(self, windows: Tensor, output: Tensor) -> None:
        """Convolve windows (6, 6, b, r, c, C), filling output (b, r, 4, c, 4, K)."""
        transformed = self.input_transform @ windows.reshape(WINDOW**2, -1)
        products = torch.bmm(transformed.view(WINDOW**2, -1, windows.shape[-1]), self.filters)
        products[WINDOW + 1] += self.bias  # the one value that each of the 16 outputs contains exactly once
        tiles = self.output_transform @ products.view(WINDOW**2, -1)
        images, rows, _, columns, _, filters = output.shape
        output.copy_(tiles.view(TILE, TILE, images, rows, columns, filters).permute(2, 3, 0, 4, 1, 5))


MIN_CHANNELS = 64  # below it, Winograd's transforms cost more than the multiplications that they save
# How the rows (or columns) of a 3×3 filter add up where two neighbours are copies of one: for even and odd outputs.
COPIES_SUM = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


class UpsampledConvolution(nn.Module):
    """Nearest up-sampling by 2 and then a 3×3 convolution with reflection padding, in 4/9 of the multiplications.

    (B, C, h, w) to (B, K, 2h, 2w), channels last. Every output sees at most 2×2 different inputs, so that a 2×2
    convolution for each of the four parities of row and column computes the outputs, which are then interleaved.
    """

    filters: Tensor  # (4K, C, 2, 2)
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        copies = torch.tensor(COPIES_SUM, dtype=torch.float64)
        filters = torch.einsum("aip,bjq,kcpq->abkcij", copies, copies, convolution.weight.detach().double())
        self.register_buffer("filters", filters.flatten(0, 2).float())
        self.register_buffer("bias", cast("Tensor", convolution.bias).detach())

    def forward(self, activations: Tensor) -> Tensor:
        """Convolve; reflecting the up-sampled activations is replicating them before."""
        images, _, height, width = activations.shape
        padded = replicated(activations)
        output = activations.new_empty(images, height, 2, width, 2, len(self.bias))
        for parity, filters in enumerate(self.filters.chunk(4)):
            row, column = divmod(parity, 2)
            seen = padded[:, :, row : row + height + 1, column : column + width + 1]
            output[:, :, row, :, column] = F.conv2d(seen, filters, self.bias).permute(0, 2, 3, 1)
        return output.view(images, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def rearranged(encoder: Encoder, decoder: Decoder, winograd: bool) -> AdaINNetwork:
    """Return a stylizer of a pair, which shares what needs no rearrangement; `winograd` for float32 on CPUs."""
    return AdaINNetwork(*(nn.Sequential(*_modules(network.chain, winograd)) for network in (encoder, decoder)))


def _modules(chain: Sequence[Layer], winograd: bool) -> Iterator[nn.Module]:
    for layer in chain:
        convolution: nn.Module = layer.convolution
        if layer.resampling == "pool":
            yield nn.MaxPool2d(2)
        if layer.resampling == "upsample":
            convolution = UpsampledConvolution(layer.convolution)
        elif winograd and min(layer.convolution.in_channels, layer.convolution.out_channels) >= MIN_CHANNELS:
            convolution = WinogradConvolution(layer.convolution)
        yield convolution
        if layer.rectified:
            yield nn.ReLU(inplace=True)
