"""The networks rearranged for inference: the same function with fewer multiplications."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.engine.winograd import WinogradConvolution
from stylize.networks.adain import Decoder, Encoder, Layer, Stylizer
from stylize.networks.channels_last import replicated

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


class Rectification(nn.Module):
    """ReLU in place."""

    def forward(self, activations: Tensor) -> Tensor:
        """Rectify."""
        if _compares_as_integers(activations):
            activations.view(torch.int16).clamp_min_(0)
            return activations
        return F.relu(activations, inplace=True)


class Pooling(nn.Module):
    """Max-pooling by 2 of rectified activations (B, C, 2h, 2w)."""

    def forward(self, activations: Tensor) -> Tensor:
        """Pool."""
        if not _compares_as_integers(activations):
            return F.max_pool2d(activations, 2)
        values = activations.view(torch.int16)
        rows = torch.maximum(values[..., 0::2, :], values[..., 1::2, :])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2]).view(torch.bfloat16)


def _compares_as_integers(activations: Tensor) -> bool:
    """Tell whether to compare as 16-bit integers: with zero and among positive values they have the order of bfloat16.

    CPUs compare them several times as fast. Only a negative NaN differs, which becomes 0; so not in float16, which
    overflows to infinities whose differences are such NaN. bfloat16 has the range of float32.
    """
    return activations.dtype == torch.bfloat16 and not activations.is_cuda


def rearranged(encoder: Encoder, decoder: Decoder, winograd: bool) -> Stylizer:
    """Return a stylizer of a pair, which shares what needs no rearrangement; `winograd` for float32 on a CPU."""
    return Stylizer(*(nn.Sequential(*_modules(network.chain, winograd)) for network in (encoder, decoder)))


def _modules(chain: Sequence[Layer], winograd: bool) -> Iterator[nn.Module]:
    for layer in chain:
        if layer.resampling == "pool":
            yield Pooling()
        upsampled = layer.resampling == "upsample"
        yield UpsampledConvolution(layer.convolution) if upsampled else _fastest(layer.convolution, winograd)
        if layer.rectified:
            yield Rectification()


def _fastest(convolution: nn.Conv2d, winograd: bool) -> nn.Module:
    many_channels = min(convolution.in_channels, convolution.out_channels) >= MIN_CHANNELS
    return WinogradConvolution(convolution) if winograd and many_channels else convolution
