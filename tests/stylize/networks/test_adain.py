import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import correlate
from torch import nn

from stylize.networks.adain import (
    ENCODER_CHANNELS,
    AdaINNetwork,
    Decoder,
    Encoder,
    adain,
    channel_statistics,
    pad_to_stride,
    stylization_flops,
)

Array = NDArray[np.float64]


def features(seed: int, batch: int = 2) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(seed, 1 + seed, (batch, 3, 5, 4))
    return torch.from_numpy(values.astype(np.float32))


def numpy_adain(content: Array, style: Array, alpha: float) -> Array:
    """Equation 2 and the blend of Huang & Belongie, image by image and channel by channel."""
    result = np.empty_like(content)
    for image in range(len(content)):
        for channel in range(content.shape[1]):
            x, y = content[image, channel], style[image, channel]
            aligned = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * np.sqrt(y.var() + 1e-5) + y.mean()
            result[image, channel] = alpha * aligned + (1 - alpha) * x
    return result


def numpy_convolution(image: Array, layer: nn.Conv2d) -> Array:
    """Cross-correlate (C, H, W) with a layer's filters under reflection padding, then ReLU."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    weight = layer.weight.double().numpy()
    assert layer.bias is not None
    maps = [correlate(padded, filters, mode="valid")[0] for filters in weight]
    activations: Array = np.maximum(np.stack(maps) + layer.bias.double().numpy()[:, None, None], 0)
    return activations


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_adain_is_the_papers_equation(alpha: float) -> None:
    content, style = features(1), features(4)
    expected = numpy_adain(content.double().numpy(), style.double().numpy(), alpha)
    found = adain(content, *channel_statistics(style), alpha)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_adain_gives_the_content_the_styles_statistics() -> None:
    wanted = channel_statistics(features(4))
    found = channel_statistics(adain(features(1), *wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_adain_of_flat_features_is_finite_and_of_the_contents_type() -> None:
    flat = torch.full((1, 3, 4, 4), 7.0, dtype=torch.bfloat16)
    found = adain(flat, *channel_statistics(features(4, batch=1)))
    assert found.dtype == torch.bfloat16
    expected = features(4, batch=1).mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_first_encoder_block_is_reflection_padded_convolution_relu_and_maximum(encoder: Encoder) -> None:
    pixels = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    image = pixels[0].double().numpy()
    first = numpy_convolution(image, encoder.convolutions[0])
    second = numpy_convolution(first, encoder.convolutions[1])
    pooled = second.reshape(64, 8, 2, 12, 2).max((2, 4))
    third = numpy_convolution(pooled, encoder.convolutions[2])
    layers = encoder.layers(pixels)
    for expected in (first, second, third):
        np.testing.assert_allclose(next(layers)[0].numpy(), expected, atol=1e-4)


def test_style_features_are_relu_1_1_2_1_3_1_4_1(encoder: Encoder) -> None:
    pixels = torch.rand(2, 3, 16, 24)
    shapes = [tuple(layer.shape) for layer in encoder.style_features(pixels)]
    assert shapes == [(2, 64, 16, 24), (2, 128, 8, 12), (2, 256, 4, 6), (2, 512, 2, 3)]
    assert torch.equal(encoder.style_features(pixels)[-1], encoder(pixels))


def test_decoder_mirrors_the_encoder(decoder: Decoder) -> None:
    channels = [(layer.in_channels, layer.out_channels) for layer in decoder.convolutions]
    assert channels == [(last, first) for first, last in ENCODER_CHANNELS][::-1]
    grids: list[tuple[int, ...]] = []
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: grids.append(tuple(output.shape[2:])))
        for layer in decoder.convolutions
    ]
    assert decoder(torch.rand(1, 512, 2, 3)).shape == (1, 3, 16, 24)
    for handle in handles:
        handle.remove()
    assert grids == [(2, 3)] + [(4, 6)] * 4 + [(8, 12)] * 2 + [(16, 24)] * 2


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (31, 18)])
def test_stylizer_keeps_shape_and_range(encoder: Encoder, decoder: Decoder, size: tuple[int, int]) -> None:
    network = AdaINNetwork(encoder, decoder)
    pixels = torch.rand(2, 3, *size)
    output = network(pixels, *network.style_statistics(torch.rand(1, 3, 20, 20)))
    assert output.shape == pixels.shape
    assert 0 <= output.min() <= output.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_picture_and_flat_style_give_finite_output(encoder: Encoder, decoder: Decoder, value: float) -> None:
    network = AdaINNetwork(encoder, decoder)
    flat = torch.full((1, 3, 16, 16), value)
    assert torch.isfinite(network(flat, *network.style_statistics(flat))).all()


def test_padding_reflects_at_the_right_and_lower_edge() -> None:
    pixels = torch.rand(1, 3, 17, 24)
    expected = np.pad(pixels.numpy(), ((0, 0), (0, 0), (0, 7), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(pad_to_stride(pixels).numpy(), expected)


@pytest.mark.parametrize("size", [(16, 16), (32, 24)])
def test_flops_count_every_convolution(encoder: Encoder, decoder: Decoder, size: tuple[int, int]) -> None:
    counted = 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d)
        counted += 2 * layer.weight.numel() * output.shape[2] * output.shape[3]

    handles = [layer.register_forward_hook(count) for part in (encoder, decoder) for layer in part.convolutions]
    decoder(encoder(torch.rand(1, 3, *size)))
    for handle in handles:
        handle.remove()
    assert counted == stylization_flops(*size)
