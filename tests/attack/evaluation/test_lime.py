import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from attack.evaluation.explain import WeightedRidge, lime_weights, superpixels
from stylize.console import InputError

pytest.importorskip("captum")


class Bands(nn.Module):
    """Probability of class 1 = 0.1 + Σ wₖ, over the bands that are not in their mean colour; two classes."""

    WEIGHTS = (0.3, 0.0, 0.2, -0.05)

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, images: Tensor) -> Tensor:
        same = torch.stack([(images[..., 8 * k : 8 * k + 8] == self.band(k)).all((1, 2, 3)) for k in range(4)], 1)
        probability = 0.1 + (same.float() @ torch.tensor(self.WEIGHTS)[:, None])
        return torch.cat([1 - probability, probability], 1).log()

    def band(self, k: int) -> Tensor:
        return self.image[:, :, 8 * k : 8 * k + 8]


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 8, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def bands() -> Tensor:
    return torch.arange(4).repeat_interleave(8).expand(8, 32)


def test_what_speaks_for_a_class_is_found(image: Tensor, bands: Tensor) -> None:
    model = Bands(image)
    weights = lime_weights(model, image, 1, bands, samples=800, seed=0)
    assert weights == pytest.approx(Bands.WEIGHTS, abs=0.02)  # the ridge shrinks them a little
    assert lime_weights(model, image, 0, bands, samples=800, seed=0) == pytest.approx(-weights, abs=1e-5)


def test_the_seed_alone_decides(image: Tensor, bands: Tensor) -> None:
    model, state = Bands(image), torch.get_rng_state()
    runs = [lime_weights(model, image, 1, bands, samples=20, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_regression_minimises_what_it_says() -> None:
    generator = np.random.default_rng(0)
    x, y, similarity = generator.integers(0, 2, (40, 3)).astype(float), generator.random(40), generator.random(40)

    def loss(parameters: NDArray[np.float64]) -> float:
        w, b = parameters[:3], parameters[3]
        return float((similarity * (y - x @ w - b) ** 2).sum() + (w**2).sum())

    ridge = WeightedRidge()
    ridge.fit([tuple(map(torch.from_numpy, (x, y, similarity)))])
    assert ridge.representation().numpy() == pytest.approx(minimize(loss, np.zeros(4)).x[:3], abs=1e-4)


def test_without_captum(image: Tensor, bands: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(InputError, match=r"need captum: pip install 'stylized-pairing\[explain\]'"):
        lime_weights(Bands(image), image, 1, bands, samples=5, seed=0)


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 16), (24, 40, 30), (16, 16, 1), (3, 3, 100)])
def test_superpixels_number_all_of_an_image(height: int, width: int, count: int) -> None:
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
    segments = superpixels(pixels, count)
    assert segments.shape == (height, width)
    assert sorted(set(segments.flatten().tolist())) == list(range(int(segments.max()) + 1))
    assert int(segments.max()) + 1 <= 1.5 * count
    assert torch.equal(superpixels(pixels, count), segments)


def test_superpixels_follow_edges() -> None:
    """A bright square, off the grid: no superpixel holds much of both sides."""
    pixels = torch.zeros(3, 32, 32)
    pixels[:, 5:22, 9:27] = 1
    segments = superpixels(pixels, 16)
    for segment in range(int(segments.max()) + 1):
        share = float(pixels[0][segments == segment].mean())
        assert min(share, 1 - share) < 0.02


def test_superpixels_of_a_flat_image_are_its_grid() -> None:
    quarter = np.arange(16) // 4
    expected = quarter[:, None] * 4 + quarter
    assert np.array_equal(superpixels(torch.full((3, 16, 16), 0.5), 16).numpy(), expected)
