import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from attack.evaluation.corruptions import HOME_MADE, SEVERITIES, corrupt

GENERATOR = np.random.default_rng(0)
SMOOTH = torch.from_numpy(gaussian_filter(GENERATOR.random((3, 40, 32)), (0, 2, 2)) * 4 - 1.5).float().clamp(0, 1)


def corrupted(name: str, severity: int, image: Tensor = SMOOTH) -> NDArray[np.float32]:
    result: NDArray[np.float32] = corrupt(image, name, severity, seed=0, key="00000001").numpy()
    return result


@pytest.mark.parametrize("name", HOME_MADE)
def test_severities_grow_and_pixels_stay_pixels(name: str) -> None:
    errors = []
    for severity in SEVERITIES:
        result = corrupted(name, severity)
        assert result.shape == (3, 40, 32)
        assert np.abs(result * 255 - (result * 255).round()).max() < 1e-4
        assert (result.min() >= 0, result.max() <= 1) == (True, True)
        errors.append(np.square(result - SMOOTH.numpy()).mean())
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("name", HOME_MADE)
def test_an_image_s_corruption_depends_on_nothing_else(name: str) -> None:
    first = corrupted(name, 2)
    torch.manual_seed(1)
    assert np.array_equal(corrupted(name, 2), first)
    other_key = corrupt(SMOOTH, name, 2, seed=0, key="00000002").numpy()
    other_seed = corrupt(SMOOTH, name, 2, seed=1, key="00000001").numpy()
    assert np.array_equal(first, other_key) == np.array_equal(first, other_seed) == ("noise" not in name)


def test_noise_has_its_strength() -> None:
    grey = torch.full((3, 100, 100), 0.5)
    assert corrupted("gaussian noise", 2, grey).std() == pytest.approx(0.08, rel=0.02)
    hit = corrupted("impulse noise", 3, grey) != np.float32(np.round(127.5)) / 255
    assert hit[0].mean() == pytest.approx(0.06, abs=0.01)
    assert np.array_equal(hit[0], hit[1])  # whole pixels


def test_blur_is_a_gaussian_filter() -> None:
    expected = gaussian_filter(SMOOTH.numpy(), (0, 0.64, 0.64), mode="mirror", radius=(0, 2, 2))
    assert np.abs(corrupted("gaussian blur", 2) - expected).max() <= 0.51 / 255


def test_brightness_and_contrast_are_linear() -> None:
    image = SMOOTH.numpy().astype(float)
    grey = np.tensordot((0.2989, 0.587, 0.114), image, 1).mean()
    assert np.abs(corrupted("brightness", 1) - np.clip(1.25 * image, 0, 1)).max() <= 0.51 / 255
    assert np.abs(corrupted("contrast", 3) - np.clip(grey + 0.3 * (image - grey), 0, 1)).max() <= 0.51 / 255


def test_pixels_grow() -> None:
    result = corrupted("pixelate", 2)
    assert np.array_equal(result[:, ::2, ::2], result[:, 1::2, 1::2])
