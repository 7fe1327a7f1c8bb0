from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from stylize.console import InputError
from stylize.sources.patterns import HELD_OUT_PATTERNS, PATTERN_NAMES, PATTERNS, draw_pattern


def pixels(name: str, size: int = 64, seed: int = 0) -> NDArray[np.float64]:
    return np.asarray(draw_pattern(name, size, seed), np.float64)


def statistics(name: str) -> NDArray[np.float64]:
    picture = pixels(name)
    fine = np.abs(np.diff(picture, axis=0)).mean((0, 1)), np.abs(np.diff(picture, axis=1)).mean((0, 1))
    return np.concatenate([picture.mean((0, 1)), picture.std((0, 1)), *fine])


def test_names_are_sorted_and_a_varied_third_is_held_out() -> None:
    assert tuple(sorted(PATTERNS)) == PATTERN_NAMES
    assert len(PATTERN_NAMES) >= 15
    assert set(HELD_OUT_PATTERNS) < set(PATTERN_NAMES)
    assert abs(len(set(HELD_OUT_PATTERNS)) - len(PATTERN_NAMES) / 3) < 1


@pytest.mark.parametrize("name", PATTERN_NAMES)
@pytest.mark.parametrize("size", [8, 37])
def test_picture_is_rgb_of_the_asked_size(name: str, size: int) -> None:
    picture = draw_pattern(name, size)
    assert (picture.mode, picture.size) == ("RGB", (size, size))


def test_same_arguments_give_the_same_picture_in_any_order() -> None:
    forward = {name: draw_pattern(name, 32, 5).tobytes() for name in PATTERN_NAMES}
    backward = {name: draw_pattern(name, 32, 5).tobytes() for name in reversed(PATTERN_NAMES)}
    assert forward == backward


@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_sizes_show_the_same_scene_and_seeds_different_ones(name: str) -> None:
    reduced = np.asarray(draw_pattern(name, 256).reduce(8), np.float64)
    small = np.asarray(draw_pattern(name, 64).reduce(2), np.float64)
    other = np.asarray(draw_pattern(name, 64, seed=1).reduce(2), np.float64)
    assert np.abs(small - reduced).mean() < 12
    assert np.abs(small - other).mean() > 2.5 * np.abs(small - reduced).mean()


@pytest.mark.parametrize("name", PATTERN_NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pictures_are_coloured_and_textured(name: str, seed: int) -> None:
    saturation = np.asarray(draw_pattern(name, 64, seed).convert("HSV"), np.float64)[..., 1] / 255
    picture = pixels(name, seed=seed)
    assert saturation.mean() > 0.3
    assert picture.std((0, 1)).max() > 25
    assert np.abs(np.diff(picture, axis=1)).mean() > 3


def test_patterns_differ_pairwise_in_channel_statistics() -> None:
    measured = {name: statistics(name) for name in PATTERN_NAMES}
    closest = min(combinations(PATTERN_NAMES, 2), key=lambda pair: np.abs(measured[pair[0]] - measured[pair[1]]).max())
    assert np.abs(measured[closest[0]] - measured[closest[1]]).max() > 15, closest


@pytest.mark.parametrize(
    ("name", "size", "seed", "message"),
    [
        ("plaid", 64, 0, "no built-in style 'plaid': choose one of bricks, .*zigzag"),
        ("", 64, 0, "no built-in style ''"),
        ("Swirls", 64, 0, "no built-in style 'Swirls'"),
        ("swirls", 7, 0, "size >= 8 .* not size 7"),
        ("swirls", -64, 0, "not size -64"),
        ("swirls", 64, -1, "seed -1"),
    ],
)
def test_bad_input_is_named(name: str, size: int, seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_pattern(name, size, seed)
