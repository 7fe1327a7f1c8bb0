"""Losses, first weights and Muon; the oracles are NumPy in float64 and PyTorch."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from stylize.fitting.optimise import (
    CONTENT_FLOOR,
    STYLE_FLOOR,
    Muon,
    initialise_from_encoder,
    orthogonalise,
    statistics_of,
    style_targets,
    style_transfer_losses,
)
from stylize.networks.adain import Decoder, Encoder

Array = NDArray[np.float64]


def statistics(features: Array) -> tuple[Array, Array]:
    return features.mean((2, 3)), np.sqrt(features.var((2, 3)) + 1e-5)


def test_losses_are_the_papers_over_those_of_the_photo(encoder: Encoder, decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(0)
    content, style, output = (torch.rand(2, 3, 16, 16, generator=generator) for _ in range(3))
    photo = encoder.style_features(content)
    targets = style_targets(photo[-1], statistics_of(photo), statistics_of(encoder.style_features(style)))
    found = style_transfer_losses(encoder, output, targets)

    layers = {
        name: [layer.double().numpy() for layer in encoder.style_features(pixels)]
        for name, pixels in (("content", content), ("style", style), ("output", output))
    }
    (mean, std), (style_mean, style_std) = (statistics(layers[name][-1]) for name in ("content", "style"))
    target = (layers["content"][-1] - mean[..., None, None]) / std[..., None, None]
    target = target * style_std[..., None, None] + style_mean[..., None, None]
    np.testing.assert_allclose(targets.features.numpy(), target, rtol=1e-3, atol=1e-4)

    def content_loss(name: str, sample: int) -> float:
        return float(((layers[name][-1][sample] - target[sample]) ** 2).mean())

    def style_loss(name: str, sample: int) -> float:
        total = 0.0
        for layer, reference in zip(layers[name], layers["style"], strict=True):
            for one, other in zip(statistics(layer), statistics(reference), strict=True):
                total += float(((one[sample] - other[sample]) ** 2).mean())
        return total

    for name, loss, floor in (("content", content_loss, CONTENT_FLOOR), ("style", style_loss, STYLE_FLOOR)):
        wanted = np.mean([loss("output", sample) / (loss("content", sample) + floor) for sample in range(2)])
        assert float(found[name]) == pytest.approx(wanted, rel=1e-3)


def _without_bias(layer: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    assert isinstance(layer.bias, torch.Tensor)
    return output - layer.bias[:, None, None]


def test_the_start_has_unit_variance_and_the_pictures_statistics(encoder: Encoder) -> None:
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    decoder = Decoder().requires_grad_(False)
    initialise_from_encoder(decoder, encoder, pixels)
    stds: list[float] = []
    for layer in decoder.convolutions:
        layer.register_forward_hook(lambda layer, _, output: stds.append(float(_without_bias(layer, output).std())))
    output = decoder(encoder(pixels))
    assert stds == pytest.approx([1.0] * 8 + [float(pixels.std())], rel=1e-3)
    torch.testing.assert_close(output.mean((0, 2, 3)), pixels.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_singular_vectors_stay_and_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    rank, noise = min(shape), np.random.default_rng(0)
    left, right = (np.linalg.qr(noise.normal(size=(side, rank)))[0] for side in shape)
    matrix = left * np.linspace(0.1, 3, rank) @ right.T
    found = left.T @ orthogonalise(torch.from_numpy(matrix)).numpy() @ right
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-9
    assert np.diag(found).min() > 0.6
    assert np.diag(found).max() < 1.3


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_updates_are_those_of_torch_in_another_type(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimisers = (Muon([mine], 0.01, torch.float32), torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0))
    for seed in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(10 + seed))
        for matrix, optimiser in zip((mine, theirs), optimisers, strict=True):
            matrix.grad = gradient.clone()
            optimiser.step()
    moved, wanted = (matrix.detach() - start for matrix in (mine, theirs))
    assert (moved - wanted).norm() < 0.02 * wanted.norm()  # theirs multiplies in bfloat16
