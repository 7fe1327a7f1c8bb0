import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize
from torch import Tensor, nn

from attack.evaluation.explain import Explanation, WeightedRidge, explain_models, lime_weights, superpixels
from attack.evaluation.target import choose_images
from attack.report.figures import OUTLINE, explanation_overlay, explanations_png
from stylize.console import InputError
from train import load_test_images

pytest.importorskip("captum")
Maker = Callable[..., Path]


class Knows(nn.Module):
    """Right on the images whose position in the test split it was given; wrong on others."""

    def __init__(self, shards: Path, right: set[int]) -> None:
        super().__init__()
        images = list(load_test_images(shards, 16, "small"))
        self.pixels = torch.stack([image.pixels for image in images]).flatten(1)
        shift = torch.tensor([0 if index in right else 1 for index in range(len(images))])
        self.labels = (torch.tensor([image.label for image in images]) + shift) % 3

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images.flatten(1), self.pixels).argmin(1)
        return 3 * torch.nn.functional.one_hot(self.labels[nearest], 3).float()


def test_images_are_those_that_all_models_get_right(make_shard_folder: Maker) -> None:
    """The first in hash order, one of each class before a second of any."""
    shards = make_shard_folder(test=12)
    models = [Knows(shards, {0, 1, 2, 3, 4, 6, 9}), Knows(shards, {0, 1, 3, 4, 5, 6, 9})]  # both: 0, 1, 3, 4, 6, 9
    keys = [image.key for image in load_test_images(shards, 16, "small")]
    order = [key for key in choose_images(shards, 12, 0) if keys.index(key) in {0, 1, 3, 4, 6, 9}]
    of_class = [[key for key in order if keys.index(key) % 3 == label] for label in (0, 1)]
    firsts = sorted((of_class[0][0], of_class[1][0]), key=order.index)
    seconds = sorted((of_class[0][1], of_class[1][1]), key=order.index)

    found = explain_models(models, shards, images=4, parts=4, samples=10)

    assert [each.key for each in found] == [*firsts, *seconds]
    assert [each.class_name for each in found] == [f"class{keys.index(each.key) % 3}" for each in found]
    assert all(len(each.weights) == 2 and len(each.weights[0]) == each.segments.max() + 1 for each in found)


def test_mistakes(make_shard_folder: Maker) -> None:
    shards = make_shard_folder(test=12)
    with pytest.raises(InputError, match="No test image of 12 is classified correctly by all models"):
        explain_models([Knows(shards, {0}), Knows(shards, {1})], shards)
    for name in ("images", "parts", "samples"):
        with pytest.raises(InputError, match=f"--{name} is 0"):
            explain_models([Knows(shards, {0})], shards, **{name: 0})  # type: ignore[arg-type]


@pytest.fixture
def explanation() -> Explanation:
    """An image of four 20 × 20 squares of which the second speaks for the class to one model, none to the other."""
    segments = np.arange(4).reshape(2, 2).repeat(20, 0).repeat(20, 1)
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:] = (200, 0, 100)
    return Explanation("00000001", "$x$ <b>", pixels, segments, (np.array([0.1, 0.5, 0.2, 0]), -np.ones(4)))


def test_the_best_superpixel_keeps_its_colour(explanation: Explanation) -> None:
    overlay = explanation_overlay(explanation, 0)
    assert overlay.shape == (160, 160, 3)
    inside = overlay[1:79, 81:159]
    assert (inside[:, 1:] == (200, 0, 100)).all()
    assert (overlay[:80, 80] == OUTLINE).all()
    assert (overlay[79, 80:] == OUTLINE).all()
    assert (overlay[80:] == 216).all()  # 255 - (255 - 100) / 4
    assert (explanation_overlay(explanation, 1) == 216).all()


def test_the_picture_is_the_same_each_time(explanation: Explanation) -> None:
    png = explanations_png([explanation, explanation], ["a_b^2$", "[bold]"])
    assert explanations_png([explanation, explanation], ["a_b^2$", "[bold]"]) == png
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width > picture.height > 300


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
