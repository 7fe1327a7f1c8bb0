"""The ten two-coloured textures of the data set `shapes`, distinct under any rotation.

Each maps coordinates u and v, float32 (height, width) in periods from the silhouette's centre, to where the second
colour is; only `blotches` and `noise` draw random numbers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Texture = Callable[[Array, Array, np.random.Generator], Mask]


def _fraction(position: Array) -> Array:
    # Three times as fast as `position % 1`.
    return np.subtract(position, np.floor(position))


def basket(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return patches of bars, across and along by turns."""
    return _fraction(np.where(checks(0.37 * u, 0.37 * v, rng), v, u) * 1.67) < 0.5


def blotches(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return the sign of a sum of waves of one length and spread directions."""
    height = np.zeros_like(u)
    for k, (jitter, phase) in enumerate(rng.random((5, 2), np.float32)):
        angle = (k + jitter) * np.float32(np.pi / 5)  # spread over the half circle, or a few would look like stripes
        height += np.sin(4.6 * (np.cos(angle) * u + np.sin(angle) * v) + 2 * np.pi * phase)
    return height > 0


def bricks(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return the joints of a brick wall."""
    shifted = 0.55 * u + 0.5 * np.floor(v)
    return (_fraction(v) < 0.28) | (_fraction(shifted) < 0.15)


def checks(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return a checkerboard."""
    return (_fraction(0.75 * u) < 0.5) ^ (_fraction(0.75 * v) < 0.5)


def dots(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return a square lattice of dots."""
    return np.asarray(np.hypot(_fraction(u) - 0.5, _fraction(v) - 0.5) < 0.32)


def noise(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return random square grains."""
    row, column = (np.floor(2.8 * axis).astype(np.int64) % 64 for axis in (v, u))
    grain: Array = rng.random((64, 64))[row, column]
    return grain < 0.5


def rays(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return eighteen rays from the centre."""
    return _fraction(np.arctan2(v, u) * (9 / np.pi)) < 0.5


def rings(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return rings around the centre."""
    return _fraction(np.hypot(u, v)) < 0.5


def stripes(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return parallel stripes."""
    return _fraction(u) < 0.5


def zigzag(u: Array, v: Array, rng: np.random.Generator) -> Mask:
    """Return parallel zigzag stripes."""
    return _fraction(v + 1.4 * np.abs(_fraction(0.6 * u) - 0.5)) < 0.5


TEXTURES: tuple[Texture, ...] = (
    basket,
    blotches,
    bricks,
    checks,
    dots,
    noise,
    rays,
    rings,
    stripes,
    zigzag,
)
TEXTURE_NAMES: tuple[str, ...] = tuple(texture.__name__ for texture in TEXTURES)
