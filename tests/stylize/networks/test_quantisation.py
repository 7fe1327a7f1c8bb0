from collections.abc import Callable, Sequence, Set

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stylize.networks.adain import POOLED, UPSAMPLED, AdaINNetwork, Decoder, Encoder, Layer
from stylize.networks.openvino import best_range, best_upper_end, calibration_pictures, quantise_chain, quantise_pair
from stylize.networks.stylizer import psnr
from stylize.networks.weights import load_pair
from stylize.sources.patterns import draw_pattern
from stylize.sources.shapes import draw_shape


def convolution(channels: int = 4, outputs: int = 5) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, outputs, 3, padding=1, padding_mode="reflect").requires_grad_(False)


def test_a_quantised_convolution_is_integer_arithmetic() -> None:
    exact, inputs = convolution(), 10 * torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(1)) - 3
    low, high = inputs.amin((0, 2, 3), keepdim=True), inputs.amax((0, 2, 3), keepdim=True)
    (layer,) = quantise_chain([Layer(None, exact, rectified=False)], inputs, (low, high))
    levels = np.rint((inputs - low).numpy() / (high - low).numpy() * 255).astype(np.int64)
    padded = np.pad(levels, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    weight, sums = layer.weight.numpy().astype(np.int64), np.zeros((6, 5, 8, 8), np.int64)
    for row in range(3):
        for column in range(3):
            window = padded[:, :, row : row + 8, column : column + 8]
            sums += np.einsum("oc,bchw->bohw", weight[:, :, row, column], window)
    wanted = sums * layer.scale.numpy().reshape(1, -1, 1, 1) / 255 + layer.bias.numpy().reshape(1, -1, 1, 1)
    assert np.abs(weight).max(axis=(1, 2, 3)).tolist() == [127] * 5
    torch.testing.assert_close(layer(inputs), torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-4)
    assert (layer(inputs) - exact(inputs)).abs().max() < 0.1


def test_biases_take_back_what_rounding_shifts() -> None:
    convolutions = [convolution(), convolution(5, 3)]
    inputs = torch.rand(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ends = torch.zeros(1, 4, 1, 1), torch.full((1, 4, 1, 1), 0.7)  # clips, so that there is a shift
    first, second = quantise_chain([Layer(None, layer, rectified=True) for layer in convolutions], inputs, ends)
    exact, found = convolutions[1](F.relu(convolutions[0](inputs))), second(F.relu(first(inputs)))
    torch.testing.assert_close(found.mean((0, 2, 3)), exact.mean((0, 2, 3)), rtol=0, atol=1e-5)


def test_a_range_has_the_least_error_of_its_grid() -> None:
    values = torch.randn(60_000, generator=torch.Generator().manual_seed(0)).relu()
    values[0] = 7.0  # an outlier is not worth the resolution of the others
    end = float(best_upper_end(values))

    def error(high: float) -> float:
        levels = np.clip(np.rint(values.double().numpy() / high * 255), 0, 255)
        return float(np.square(levels / 255 * high - values.double().numpy()).mean())

    grid = [2 ** (step / 8) for step in range(-16, 33)]
    assert error(end) == pytest.approx(min(map(error, grid)), rel=1e-3)
    assert end < 7


def test_loud_channels_get_wider_ranges_and_silent_ones_none_that_is_empty() -> None:
    activations = (
        torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([16.0, 1.0, 0.0])[None, :, None, None]
    )
    low, high = best_range(activations)
    assert low.abs().max() == 0
    assert float(high[0, 0] / high[0, 1]) == pytest.approx(4, rel=0.05)  # the square root of 16
    assert high.min() > 0
    torch.testing.assert_close(best_range(activations, 2.0)[1], 2 * high)
    _, silent = best_range(torch.zeros(1, 3, 4, 4))
    assert silent.min() > 0


def test_calibration_is_the_same_every_time(encoder: Encoder, decoder: Decoder) -> None:
    statistics = torch.zeros(30, 512, 1, 1), torch.ones(30, 512, 1, 1)
    first, second = (quantise_pair(encoder, decoder, *statistics) for _ in range(2))
    for one, other in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.bias, other.bias)
        assert one.bias.isfinite().all()  # the encoder's silent channels do no harm
        assert torch.equal(one.high, other.high)
    assert len({picture.tobytes() for picture in calibration_pictures()}) == 24


class Rounded(nn.Module):
    """A quantised chain in exact arithmetic on any CPU; without resampling after the last layer."""

    def __init__(self, layers: Sequence[Callable[[Tensor], Tensor]], pooled: Set[int], upsampled: Set[int]) -> None:
        super().__init__()
        self.layers, self.pooled, self.upsampled = layers, pooled, upsampled

    def forward(self, activations: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            activations = layer(activations if index == 0 else F.relu(activations))
            if index in self.pooled:
                activations = F.max_pool2d(activations, 2)
            if index in self.upsampled:
                activations = F.interpolate(activations, scale_factor=2)
        return activations


@torch.inference_mode()
def test_the_shipped_pair_stays_within_34_decibels_on_what_it_was_not_calibrated_on() -> None:
    pair = load_pair()
    exact = AdaINNetwork(pair.encoder.network, pair.decoder)
    styles = torch.cat([pixels(draw_pattern(name, 128)) for name in ("waves", "brush-strokes", "weave")])
    means, stds = exact.style_statistics(styles)
    encoder, decoder = quantise_pair(pair.encoder.network, pair.decoder, means, stds)
    rounded = AdaINNetwork(
        nn.Sequential(Rounded(encoder, POOLED, set()), nn.ReLU()),
        Rounded([pair.decoder.convolutions[0], *decoder], set(), UPSAMPLED),
    )
    contents = [draw_shape(index, size=64, split="test").picture for index in range(3)]
    contents += [draw_pattern(name, 64, seed=77) for name in ("swirls", "weave", "zigzag")]
    ratios = []
    for index, content in enumerate(contents):
        style = means[[index % 3]], stds[[index % 3]]
        one, other = (network(pixels(content), *style).mul(255).byte().numpy() for network in (exact, rounded))
        ratios.append(psnr(one, other))
    assert np.mean(ratios) >= 34


def pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
