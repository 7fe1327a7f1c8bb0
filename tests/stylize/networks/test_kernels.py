import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate, zoom
from torch import nn

from stylize.networks.adain import AdaINNetwork, UpsampledConvolution, WinogradConvolution, rearranged
from stylize.networks.weights import load_pair

Array = NDArray[np.float64]


def convolution(channels: int, filters: int) -> nn.Conv2d:
    torch.manual_seed(channels + filters)
    return nn.Conv2d(channels, filters, kernel_size=3, padding=1, padding_mode="reflect").requires_grad_(False)


def activations(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)


def scipy_convolution(images: Array, layer: nn.Conv2d) -> Array:
    """Cross-correlate (B, C, H, W) with a layer's filters, plane by plane; SciPy calls torch's "reflect" mirror."""
    assert layer.bias is not None
    weight, bias = layer.weight.double().numpy(), layer.bias.double().numpy()
    return np.stack(
        [
            [
                sum(correlate(plane, kernel, mode="mirror") for plane, kernel in zip(image, kernels, strict=True))
                + base
                for kernels, base in zip(weight, bias, strict=True)
            ]
            for image in images
        ]
    )


SHAPES = [(1, 4, 4), (1, 2, 2), (3, 5, 7), (2, 8, 12), (2, 3, 33), (1, 130, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [(3, 5), (64, 8)])
def test_winograd_is_the_convolution(shape: tuple[int, int, int], channels: tuple[int, int]) -> None:
    images, height, width = shape
    layer, values = convolution(*channels), activations(images, channels[0], height, width)
    found = WinogradConvolution(layer)(values)
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found, scipy_convolution(values.double().numpy(), layer), rtol=0, atol=2e-5)


@pytest.mark.parametrize("block_tiles", [1, 9, 45, 10**9])
def test_winograd_does_not_depend_on_its_blocks(block_tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, values = convolution(6, 4), activations(5, 6, 13, 18)
    monkeypatch.setattr("stylize.networks.adain.BLOCK_TILES", block_tiles)
    expected = scipy_convolution(values.double().numpy(), layer)
    np.testing.assert_allclose(WinogradConvolution(layer)(values), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_upsampled_convolution_is_upsampling_and_convolution(shape: tuple[int, int, int]) -> None:
    images, height, width = shape
    layer, values = convolution(3, 4), activations(images, 3, height, width)
    found = UpsampledConvolution(layer)(values)
    assert found.is_contiguous(memory_format=torch.channels_last)
    doubled = zoom(values.double().numpy(), (1, 1, 2, 2), order=0, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(found, scipy_convolution(doubled, layer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (40, 56), (33, 50)])
def test_rearranged_stylizer_computes_the_same(winograd: bool, size: tuple[int, int]) -> None:
    pair = load_pair()
    network = AdaINNetwork(pair.encoder.network, pair.decoder)
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        statistics = network.style_statistics(torch.rand((1, 3, 48, 64), generator=generator))
        pixels = torch.rand((2, 3, *size), generator=generator)
        expected = network(pixels, *statistics)
        found = rearranged(pair.encoder.network, pair.decoder, winograd)(pixels, *statistics)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
