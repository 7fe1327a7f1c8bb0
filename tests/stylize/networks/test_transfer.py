from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from stylize.console import InputError
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.styles import Style
from stylize.networks.stylizer import Engine, Pixels
from stylize.networks.weights import load_pair
from stylize.sources.shapes import draw_shape

Noise = Callable[..., Pixels]
DTYPES = ("float32", "bfloat16")


def by_numpy(pixels: Pixels, style: Style, alpha: float) -> NDArray[np.float64]:
    """Return a picture with a style's channel means and deviations, in grey levels; slow and obvious."""
    content, of_style = pixels / 255.0, np.asarray(style.picture) / 255.0
    aligned = np.empty_like(content)
    for channel in range(3):
        one, other = content[..., channel], of_style[..., channel]
        aligned[..., channel] = (one - one.mean()) / one.std() * other.std() + other.mean()
    blended: NDArray[np.float64] = np.clip((1 - alpha) * content + alpha * aligned, 0, 1) * 255
    return blended


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_colours_are_the_styles_as_numpy_says(engine: Engine, styles: list[Style], noise: Noise, alpha: float) -> None:
    pictures = np.stack([noise(seed, 20, 28) // 2 + 40 for seed in range(3)])
    found = engine.stylize(pictures, [2, 0, 1], alpha, transfer="colours")
    for picture, choice, made in zip(pictures, [2, 0, 1], found, strict=True):
        assert np.abs(made - by_numpy(picture, styles[choice], alpha)).max() < 1


@pytest.mark.parametrize("work_size", [None, 32])
def test_both_are_the_features_first_and_then_the_colours(styles: list[Style], work_size: int | None) -> None:
    pair = load_pair()
    engine = Engine(pair.encoder.network, pair.decoder, styles, "float32")
    pictures = np.stack([np.asarray(draw_shape(index, size=24, split="test").picture) for index in range(2)])
    features = engine.stylize(pictures, [1, 2], 1.0, work_size)
    found = engine.stylize(pictures, [1, 2], 1.0, work_size, "both")
    for picture, choice, made in zip(features, [1, 2], found, strict=True):
        assert np.abs(made - by_numpy(picture, styles[choice], 1.0)).mean() < 1
    assert np.abs(features.astype(int) - found).mean() > 5


def test_colours_do_not_depend_on_the_networks_type(encoder: Encoder, decoder: Decoder, styles: list[Style]) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (1, 16, 16, 3))
    made = [Engine(encoder, decoder, styles, dtype).stylize(ramp, [1], 0.7, None, "colours") for dtype in DTYPES]
    assert all(np.array_equal(made[0], other) for other in made)


def test_another_transfer_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="--transfer is 'colors': give one of features, colours, both"):
        engine.stylize(np.zeros((1, 16, 16, 3), np.uint8), [0], 1.0, None, "colors")


def test_a_flat_picture_takes_the_styles_mean_alone(engine: Engine, styles: list[Style]) -> None:
    flat = np.full((1, 16, 16, 3), 90, np.uint8)
    (made,) = engine.stylize(flat, [0], 1.0, transfer="colours")
    assert np.abs(made - np.asarray(styles[0].picture).mean((0, 1))).max() < 1
