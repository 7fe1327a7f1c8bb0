"""The networks and their kernels of padding and statistics; the oracles are NumPy, SciPy and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.signal import correlate
from torch import Tensor, nn

from stylize.networks.adain import (
    ENCODER_CHANNELS,
    AdaINNetwork,
    Decoder,
    Encoder,
    _Reflection,
    adain,
    bordered,
    channel_statistics,
    pad_to_stride,
    reflected,
    replicated,
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


def last_channels(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = torch.from_numpy(np.random.default_rng(0).normal(3, 2, shape)).to(dtype)
    return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values


def numpy_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    array = values.double().numpy()
    mean, variance = (of(array, axis=(2, 3), keepdims=True) for of in (np.mean, np.var))
    return torch.from_numpy(mean), torch.from_numpy(np.sqrt(variance + 1e-5))


@pytest.mark.parametrize(("distance", "mode"), [(1, "reflect"), (0, "edge")])
@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 5, 3, 7), (2, 1, 8, 4)])
def test_borders_are_those_of_numpy(distance: int, mode: str, shape: tuple[int, ...]) -> None:
    given = last_channels(*shape)
    wanted = np.pad(given.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode=mode)  # type: ignore[call-overload]
    with torch.inference_mode():
        by_library = (replicated, reflected)[distance](given)
    for found in (bordered(given, distance), by_library):
        np.testing.assert_array_equal(found.numpy(), wanted)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 2, 3, 5), (2, 1, 4, 3)])
def test_the_gradient_of_reflection_is_that_of_finite_differences(shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(_Reflection.apply, last_channels(*shape).requires_grad_())


def test_borders_keep_their_type_in_mixed_precision() -> None:
    given = last_channels(1, 2, 3, 5, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert reflected(given).dtype == torch.bfloat16


def test_the_gradients_of_channel_statistics_are_the_librarys() -> None:
    given, weights = last_channels(2, 3, 5, 4), last_channels(2, 2, 3, 1, 1)
    variance, mean = torch.var_mean(given.requires_grad_(), dim=(2, 3), correction=0, keepdim=True)
    wanted = torch.autograd.grad(torch.stack([mean, (variance + 1e-5).sqrt()]), given, weights)
    single = given.detach().float().requires_grad_()
    found = torch.autograd.grad(torch.stack(channel_statistics(single)), single, weights.float())
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_channel_statistics_are_biased_with_epsilon_under_the_root(layout: torch.memory_format) -> None:
    given = last_channels(2, 3, 5, 4, dtype=torch.float32).to(memory_format=layout)
    for found, wanted in zip(channel_statistics(given), numpy_statistics(given), strict=True):
        assert found.shape == (2, 3, 1, 1)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)


def test_channel_statistics_keep_small_deviations_from_a_large_mean() -> None:
    given = last_channels(1, 4, 32, 32, dtype=torch.float32) * 1e-2 + 100
    _, std = channel_statistics(given)
    torch.testing.assert_close(std.double(), numpy_statistics(given)[1], rtol=1e-4, atol=0)


def test_channel_statistics_of_bfloat16_are_summed_in_float32() -> None:
    given = last_channels(1, 4, 64, 64, dtype=torch.bfloat16)
    for found, wanted in zip(channel_statistics(given), numpy_statistics(given), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_borders_on_a_gpu_are_those_of_the_cpu() -> None:
    given, weights = last_channels(2, 3, 6, 7), last_channels(2, 3, 8, 9)
    gradients: list[Tensor] = []
    for device in ("cpu", "cuda"):
        pixels = given.to(device).requires_grad_()
        padded = reflected(pixels)
        torch.testing.assert_close(padded.cpu(), F.pad(given, (1, 1, 1, 1), mode="reflect"), rtol=0, atol=0)
        gradients += torch.autograd.grad(padded, pixels, weights.to(device))
    torch.testing.assert_close(gradients[0], gradients[1].cpu())
