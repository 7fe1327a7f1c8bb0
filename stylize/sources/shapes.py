"""The embedded data set `shapes`: ten silhouettes × ten textures, to measure shape bias (Geirhos et al. 2019)."""

import colorsys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stylize.console import InputError

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]
Texture = Callable[[Array, Array, np.random.Generator], Mask]


def _fraction(position: Array) -> Array:
    # Three times as fast as `position % 1`.
    whole = np.floor(position)
    return np.subtract(position, whole, out=whole)


def _checks(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    return (_fraction(0.75 * u) < 0.5) ^ (_fraction(0.75 * v) < 0.5)


def _blotches(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return the sign of a sum of waves of one length and spread directions."""
    height = np.zeros_like(u)
    for k, (jitter, phase) in enumerate(rng.random((5, 2), np.float32)):
        angle = (k + jitter) * np.float32(np.pi / 5)  # spread over the half circle, or a few would look like stripes
        height += np.sin(4.6 * (np.cos(angle) * u + np.sin(angle) * v) + 2 * np.pi * phase)
    return height > 0


def _noise(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    row, column = (np.floor(2.8 * axis).astype(np.int64) % 64 for axis in (v, u))
    grain: Array = rng.random((64, 64))[row, column]
    return grain < 0.5


_TEXTURES: dict[str, Texture] = {
    "basket": lambda u, v, rng: _fraction(np.where(_checks(0.37 * u, 0.37 * v, rng), v, u) * 1.67) < 0.5,
    "blotches": _blotches,
    "bricks": lambda u, v, _: (_fraction(v) < 0.28) | (_fraction(0.55 * u + 0.5 * np.floor(v)) < 0.15),
    "checks": _checks,
    "dots": lambda u, v, _: np.asarray(np.hypot(_fraction(u) - 0.5, _fraction(v) - 0.5) < 0.32),
    "noise": _noise,
    "rays": lambda u, v, _: _fraction(np.arctan2(v, u) * (9 / np.pi)) < 0.5,
    "rings": lambda u, v, _: _fraction(np.hypot(u, v)) < 0.5,
    "stripes": lambda u, v, _: _fraction(u) < 0.5,
    "zigzag": lambda u, v, _: _fraction(v + 1.4 * np.abs(_fraction(0.6 * u) - 0.5)) < 0.5,
}
TEXTURES, TEXTURE_NAMES = tuple(_TEXTURES.values()), tuple(_TEXTURES)

DRAWN_SPLITS = ("train", "test", "conflict", "textureless")
CLASS_NAMES = ("arrow", "bolt", "circle", "crescent", "cross", "heart", "ring", "square", "star", "triangle")
_OVERSAMPLING = 4
_LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601
_ARROW = ((0, -1), (0.8, -0.1), (0.33, -0.1), (0.33, 0.94), (-0.33, 0.94), (-0.33, -0.1), (-0.8, -0.1))
_BOLT = ((-0.25, -0.95), (0.5, -0.85), (0.15, -0.3), (0.62, -0.3), (-0.3, 0.95), (-0.05, 0.1), (-0.6, 0.1))
_HALF_CROSS = ((-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3))  # the other half is its negative


@dataclass(frozen=True)
class ShapeImage:
    """An RGB picture, the label of its silhouette, and that of its texture (None where it has a plain colour)."""

    picture: Image.Image
    shape: int
    texture: int | None


def _arc(start: float, end: float, points: int = 72) -> Array:
    """Return points (points, 2) on the unit circle between two angles in degrees."""
    angles = np.radians(np.linspace(start, end, points))
    return np.stack([np.cos(angles), np.sin(angles)], -1)


@cache
def _outlines(label: int) -> tuple[Array, ...]:
    """Return a silhouette's outline (points, 2) in the unit circle, y downwards, and the outline of its hole if any."""
    turn = np.linspace(0, 2 * np.pi, 72)
    lobes = 5 * np.cos(2 * turn) + 2 * np.cos(3 * turn) + np.cos(4 * turn) - 13 * np.cos(turn)
    outline = {
        "arrow": np.array(_ARROW),
        "bolt": np.array(_BOLT),
        "circle": 0.85 * _arc(0, 360),
        # The inner edge is part of a smaller circle to the right; both arcs end in the same two tips.
        "crescent": np.concatenate([_arc(48, 312), 0.82 * _arc(295, 65) + (0.322, 0)]),
        "cross": np.concatenate([_HALF_CROSS, np.negative(_HALF_CROSS)]),
        "heart": np.stack([16 * np.sin(turn) ** 3, lobes], -1) / 17,
        "ring": 0.95 * _arc(0, 360),
        "square": _arc(-135, 225, 5)[:-1],
        "star": _arc(-90, 270, 11)[:-1] * np.where(np.arange(10) % 2, 0.42, 1)[:, None],
        "triangle": _arc(-90, 270, 4)[:-1],
    }[CLASS_NAMES[label]]
    return (outline, 0.5 * _arc(0, 360)) if CLASS_NAMES[label] == "ring" else (outline,)


def _colour(rng: np.random.Generator, hue: float, luma: float) -> Array:
    """Return a colour (3,) in [0, 1] of the given luma: a saturated hue, darkened to black or lightened to white."""
    pure = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 1), 1))
    own = float(_LUMA @ pure)
    return pure * (luma / own) if own > luma else pure + (1 - pure) * ((luma - own) / (1 - own))


def _colours(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return three colours, background and two fills, whose lumas are at least 0.2 apart from each other."""
    hue = rng.random()
    lumas = np.array((rng.uniform(0.06, 0.2), rng.uniform(0.42, 0.56), rng.uniform(0.78, 0.92)))
    order = (0, 1, 2) if rng.random() < 0.5 else (2, 1, 0)  # the background is the darkest or the lightest
    turns = (0, rng.uniform(0.25, 0.75), rng.uniform(0, 1))
    background, near, far = (_colour(rng, hue + turn, lumas[i]) for turn, i in zip(turns, order, strict=True))
    return background, near, far


def _silhouette(label: int, size: int, centre: Array, radius: float, angle: float) -> Array:
    """Return how much of each pixel the silhouette covers, (size, size) in [0, 1]."""
    side = size * _OVERSAMPLING
    mask = Image.new("L", (side, side))
    rotation = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    for fill, outline in zip((255, 0), _outlines(label), strict=False):
        points = (centre + radius * outline @ rotation) * side - 0.5
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in points.round().tolist()], fill)
    return np.asarray(mask.reduce(_OVERSAMPLING), np.float32) / 255


def _box(covered: Array) -> Box:
    """Return the rows and columns of the smallest box around all that is covered."""
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _fill(texture: int | None, size: int, box: Box, centre: Array, angle: float, rng: np.random.Generator) -> Array:
    """Return how much of each pixel of a box has the second fill colour, (height, width) in [0, 1]."""
    if texture is None:
        return np.full((1, 1), rng.integers(2), np.float32)
    period = rng.uniform(0.1, 0.13)
    axis = (np.arange(size * _OVERSAMPLING, dtype=np.float32) + 0.5) / np.float32(size * _OVERSAMPLING)
    parts = (axis[part.start * _OVERSAMPLING : part.stop * _OVERSAMPLING] for part in box)
    y, x = ((part - np.float32(offset)) / np.float32(period) for part, offset in zip(parts, centre[::-1], strict=True))
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cosine * x + sine * y[:, None], cosine * y[:, None] - sine * x
    drawn = Image.fromarray(TEXTURES[texture](u, v, rng).view(np.uint8) * np.uint8(255))
    return np.asarray(drawn.reduce(_OVERSAMPLING), np.float32) / 255


def draw_shape(index: int, *, size: int, seed: int = 0, split: str, agreement: float = 0.9) -> ShapeImage:
    """Draw the image of an index: size × size pixels, RGB, the same scene at every size.

    It depends on (seed, split, index) and on nothing drawn before. Raises `InputError` for an unknown split, a negative
    index or seed, a size below 8 or an agreement outside [0, 1].
    """
    if split not in DRAWN_SPLITS:
        raise InputError(f"The data set shapes has no split {split!r}: choose one of {', '.join(DRAWN_SPLITS)}.")
    if index < 0 or seed < 0 or size < 8:
        raise InputError(f"shapes needs index >= 0, seed >= 0, size >= 8, not index {index}, seed {seed}, size {size}.")
    if not 0 <= agreement <= 1:
        raise InputError(f"The agreement of shapes is a probability: choose it from 0 to 1, not {agreement}.")
    label = index % 10
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    texture: int | None = None
    if split != "conflict" and split != "textureless" and rng.random() < agreement:
        texture = label
    elif split != "textureless":
        texture = int(label + rng.integers(1, 10)) % 10
    background, near, far = (colour[:, None, None] for colour in _colours(rng))
    radius = rng.uniform(0.3, 0.44)
    centre = rng.uniform(radius + 0.02, 0.98 - radius, 2)
    angle, texture_angle, light_angle = np.radians(rng.uniform((-30, -30, 0), (30, 30, 360)))
    slope = rng.uniform(0, 0.12) * (np.arange(size) + 0.5 - size / 2) / size
    light = 1 + np.cos(light_angle) * slope + np.sin(light_angle) * slope[:, None]
    covered = _silhouette(label, size, centre, radius, angle)
    box = _box(covered)
    inside = near + (far - near) * _fill(texture, size, box, centre, texture_angle, rng)
    pixels = background * light  # (3, size, size) is faster than channels last
    pixels[:, *box] += (inside - pixels[:, *box]) * covered[box]
    levels = (pixels * 255 + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return ShapeImage(Image.fromarray(levels), label, texture)
