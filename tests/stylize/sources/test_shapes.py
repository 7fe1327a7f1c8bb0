from collections import Counter
from math import pi, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binom, chisquare

from stylize.console import InputError
from stylize.sources.shapes import CLASS_NAMES, DRAWN_SPLITS, TEXTURE_NAMES, TEXTURES, ShapeImage, draw_shape

TINY = 8  # labels and textures do not depend on the size


def foreground(drawn: ShapeImage) -> NDArray[np.bool_]:
    """Return which pixels lie outside the range of colours of the outermost pixels, which are always background."""
    picture = np.asarray(drawn.picture, np.int64)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    outside = (picture < border.min(0) - 12) | (picture > border.max(0) + 12)
    return np.asarray(outside.any(-1), np.bool_)


def silhouette(index: int) -> NDArray[np.float64]:
    """Return the foreground cropped to its bounding box, at 16 × 16 pixels."""
    mask = Image.fromarray(foreground(draw_shape(index, size=64, split="textureless")).astype(np.uint8) * 255)
    return np.asarray(mask.resize((16, 16), Image.Resampling.BOX, mask.getbbox()), np.float64)


def spectrum(texture: int, seed: int) -> NDArray[np.float64]:
    """Return the amplitude spectrum of a texture under a random rotation of at most 30°, blurred a little."""
    rng = np.random.default_rng([texture, seed])
    angle, period = np.radians(rng.uniform(-30, 30)), rng.uniform(0.1, 0.13)
    y, x = (np.mgrid[:64, :64] + 0.5 - 32) / 64 / period
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    mask = TEXTURES[texture](u.astype(np.float32), v.astype(np.float32), rng)
    amplitude = np.abs(np.fft.fftshift(np.fft.fft2(mask - mask.mean())))
    return np.asarray(Image.fromarray(amplitude.astype(np.float32)).reduce(4), np.float64)


def nearest_neighbour_accuracy(known: NDArray[np.float64], asked: NDArray[np.float64]) -> float:
    """Return the accuracy of one nearest neighbour; row i of both (n, features) has the label i % 10."""
    distances = ((asked[:, None] - known[None]) ** 2).sum(-1)
    return float((distances.argmin(1) % 10 == np.arange(len(asked)) % 10).mean())


def test_there_are_ten_classes_and_ten_textures() -> None:
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 10
    assert len(set(TEXTURE_NAMES)) == len(TEXTURE_NAMES) == 10


@pytest.mark.parametrize("split", DRAWN_SPLITS)
def test_labels_are_balanced_and_the_picture_is_rgb(split: str) -> None:
    drawn = [draw_shape(index, size=TINY, split=split) for index in range(50)]
    assert Counter(image.shape for image in drawn) == dict.fromkeys(range(10), 5)
    assert {(image.picture.mode, image.picture.size) for image in drawn} == {("RGB", (TINY, TINY))}


def test_an_image_depends_on_seed_split_and_index_only() -> None:
    wanted = [(seed, split, index) for seed in (0, 1) for split in DRAWN_SPLITS for index in (0, 3, 13, 10**9)]

    def draw(key: tuple[int, str, int]) -> bytes:
        return draw_shape(key[2], size=16, seed=key[0], split=key[1]).picture.tobytes()

    forward = {key: draw(key) for key in wanted}
    assert forward == {key: draw(key) for key in reversed(wanted)}
    assert len(set(forward.values())) == len(wanted)


@pytest.mark.parametrize("split", DRAWN_SPLITS)
@pytest.mark.parametrize("index", range(10))
def test_sizes_show_the_same_scene(split: str, index: int) -> None:
    small, large = (draw_shape(index, size=size, split=split) for size in (32, 256))
    assert (small.shape, small.texture) == (large.shape, large.texture)
    difference = np.asarray(small.picture, np.float64) - np.asarray(large.picture.reduce(8), np.float64)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("agreement", [0, 0.5, 0.9, 1])
def test_texture_agrees_at_the_asked_rate(split: str, agreement: float) -> None:
    count = 400
    drawn = [draw_shape(index, size=TINY, split=split, agreement=agreement) for index in range(count)]
    agreeing = sum(image.texture == image.shape for image in drawn)
    assert binom.ppf(1e-4, count, agreement) <= agreeing <= binom.ppf(1 - 1e-4, count, agreement)


def test_agreement_is_nine_tenths_by_default() -> None:
    for index in range(50):
        default = draw_shape(index, size=TINY, split="train")
        explicit = draw_shape(index, size=TINY, split="train", agreement=0.9)
        assert default.picture.tobytes() == explicit.picture.tobytes()


def test_conflict_has_the_texture_of_another_class_uniformly() -> None:
    drawn = [draw_shape(index, size=TINY, split="conflict", agreement=1) for index in range(900)]
    turns = Counter((image.texture - image.shape) % 10 for image in drawn if image.texture is not None)
    assert set(turns) == set(range(1, 10))
    assert chisquare(list(turns.values())).pvalue > 1e-4


@pytest.mark.parametrize("k", range(5))
def test_textureless_silhouettes_have_one_colour(k: int) -> None:
    drawn = draw_shape(10 * k + CLASS_NAMES.index("square"), size=64, split="textureless")
    inside = np.asarray(drawn.picture)[foreground(drawn)]
    _, counts = np.unique(inside, axis=0, return_counts=True)
    assert drawn.texture is None
    assert counts.max() > 0.8 * len(inside)


# Areas in the unit circle, by hand; a silhouette's circle has a radius from 0.3 to 0.44 of the picture's side.
@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("circle", pi * 0.85**2),
        ("cross", 2 * 2 * 0.6 - 0.6**2),
        ("ring", pi * (0.95**2 - 0.5**2)),
        ("square", 2.0),
        ("triangle", 3 * sqrt(3) / 4),
    ],
)
@pytest.mark.parametrize("split", DRAWN_SPLITS)
def test_silhouette_stands_out_and_covers_its_area(name: str, area: float, split: str) -> None:
    for k in range(5):
        drawn = draw_shape(10 * k + CLASS_NAMES.index(name), size=64, split=split)
        # Half of an edge pixel may count or not.
        assert 0.97 * area * 0.3**2 < foreground(drawn).mean() < 1.12 * area * 0.44**2


def test_silhouettes_can_be_told_apart_without_texture() -> None:
    flat = np.stack([silhouette(index).ravel() for index in range(240)])
    assert nearest_neighbour_accuracy(flat[:160], flat[160:]) > 0.95


def test_textures_can_be_told_apart_without_silhouette() -> None:
    flat = np.stack([spectrum(k % 10, k // 10).ravel() for k in range(240)])
    assert nearest_neighbour_accuracy(flat[:160], flat[160:]) > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "no split 'val': choose one of train, test, conflict, textureless"),
        ({"split": ""}, "no split ''"),
        ({"index": -1}, "index -1"),
        ({"seed": -1}, "seed -1"),
        ({"size": 7}, "size 7"),
        ({"agreement": -0.1}, "from 0 to 1, not -0.1"),
        ({"agreement": 1.1}, "from 0 to 1, not 1.1"),
        ({"agreement": float("nan")}, "from 0 to 1, not nan"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_shape(**({"index": 0, "size": 16, "split": "train"} | arguments))  # type: ignore[arg-type]
