"""The networks rearranged for inference: the same function with fewer multiplications."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.networks.adain import AdaINNetwork, Decoder, Encoder, Layer, replicated

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
