import copy

import numpy as np
import torch
from numpy.typing import NDArray

from stylize.networks.adain import Encoder
from stylize.networks.weights import built_in_pictures, normalise


def pictures(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 16, 24, generator=generator, dtype=torch.float64) for _ in range(count)]


def means(encoder: Encoder, layer: int) -> NDArray[np.float64]:
    double = copy.deepcopy(encoder).double()
    maps = [list(double.layers(pixels))[layer].numpy() for pixels in pictures()]
    found: NDArray[np.float64] = np.concatenate(maps).mean((0, 2, 3))
    return found


def test_mean_activations_are_one_unless_they_are_a_tenth_of_the_layers(encoder: Encoder) -> None:
    normalised = copy.deepcopy(encoder)
    normalise(normalised, pictures())
    for layer in range(9):
        before, after = means(encoder, layer), means(normalised, layer)
        expected = np.minimum(1, before / (0.1 * before.mean()))
        np.testing.assert_allclose(after, expected, rtol=6e-3)


def test_a_channel_that_never_fires_is_scaled_by_a_tenth_of_the_layers_mean(encoder: Encoder) -> None:
    silent = copy.deepcopy(encoder)
    assert isinstance(silent.convolutions[0].bias, torch.Tensor)
    silent.convolutions[0].bias.data[5] = -1000
    normalised = copy.deepcopy(silent)
    normalise(normalised, pictures())
    ratio = silent.convolutions[0].weight[5] / normalised.convolutions[0].weight[5]
    assert np.allclose(ratio, 0.1 * means(silent, 0).mean(), rtol=6e-3)


def test_means_are_rounded_to_three_digits(encoder: Encoder) -> None:
    """Only so do machines that add in different orders get the same weights."""
    normalised = copy.deepcopy(encoder)
    normalise(normalised, pictures())
    measured = means(encoder, 0)
    expected = [float(f"{max(mean, 0.1 * measured.mean()):.3g}") for mean in measured]
    factors = torch.tensor(expected)[:, None, None, None]
    assert torch.equal(normalised.convolutions[0].weight, encoder.convolutions[0].weight * (1 / factors))


def test_the_built_in_pictures_are_the_same_each_time_and_many() -> None:
    first, second = list(built_in_pictures()), list(built_in_pictures())
    assert len(first) == 19 + 40
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    whole = torch.cat(first)
    assert whole.dtype == torch.float64
    assert 0 <= float(whole.min()) < 0.1 < 0.9 < float(whole.max()) <= 1
