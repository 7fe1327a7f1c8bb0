"""What the built-in style pictures are drawn with: coordinates, noise, palettes and Voronoi cells."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
TAU = 2 * np.pi


@dataclass(frozen=True)
class Canvas:
    """A square of `size` pixels with coordinates in [0, 1), a palette (colours, 3) in [0, 1] and a random generator."""

    size: int
    palette: Array
    rng: np.random.Generator

    def grid(self) -> tuple[Array, Array]:
        """Return x and y of the pixel centres, each (size, size)."""
        axis = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        x, y = np.meshgrid(axis, axis)
        return x, y

    def noise(self, cells: int, octaves: int = 1) -> Array:
        """Return smooth noise (size, size) in [0, 1]: random lattices, each twice as fine and half as strong."""
        total = np.zeros((self.size, self.size), np.float32)
        for octave in range(octaves):
            lattice = Image.fromarray(self.rng.random((cells << octave, cells << octave), np.float32))
            total += np.asarray(lattice.resize((self.size, self.size), Image.Resampling.BICUBIC)) / 2**octave
        low, high = total.min(), total.max()
        return np.asarray((total - low) / (high - low), np.float32)

    def ramp(self, position: Array) -> Array:
        """Return colours (size, size, 3) from a position in [0, 1] along the palette, interpolated linearly."""
        knots = np.linspace(0, 1, len(self.palette))
        return np.stack([np.interp(position, knots, channel) for channel in self.palette.T], -1).astype(np.float32)

    def pick(self, index: NDArray[np.integer]) -> Array:
        """Return the palette's colour of every index, taken modulo the number of colours."""
        return np.take(self.palette, index % len(self.palette), axis=0)

    def scatter(self, index: Indices) -> Indices:
        """Return a random number for every distinct non-negative index, the same for equal indices."""
        return self.rng.integers(1 << 16, size=4096)[index % 4096]

    def cells(self, count: int, jitter: float) -> tuple[Indices, Array, Array]:
        """Return owner, distance to the nearest site and distance to the border of a jittered-grid Voronoi diagram."""
        sites = (self.rng.random((count + 2, count + 2, 2), np.float32) - 0.5) * np.float32(jitter) + np.float32(0.5)
        x, y = (axis * count for axis in self.grid())
        column, row = x.astype(np.int64), y.astype(np.int64)
        first, second = np.full_like(x, 9), np.full_like(x, 9)
        owner = np.zeros_like(row)
        for down, right in product((-1, 0, 1), repeat=2):
            neighbour = (row + (down + 1)) * (count + 2) + column + (right + 1)
            site = sites.reshape(-1, 2)[neighbour]
            distance = np.hypot(x - column - right - site[..., 0], y - row - down - site[..., 1])
            owner = np.where(distance < first, neighbour, owner)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
        return owner, first, second - first


def cover(below: Array, above: Array, amount: Array | NDArray[np.bool_]) -> Array:
    """Return a mixture (size, size, 3): `above` where the amount (size, size) is 1, `below` where it is 0."""
    return below + (above - below) * amount[..., None].astype(np.float32)


def shade(picture: Array, light: Array) -> Array:
    """Return a picture (size, size, 3) times a brightness (size, size) where 1 changes nothing."""
    return np.multiply(picture, light[..., None])


def start_drawing(c: Canvas) -> tuple[Image.Image, ImageDraw.ImageDraw, list[tuple[int, ...]]]:
    """Return a picture filled with the palette's first colour, its drawing tool, and the palette for Pillow."""
    colours = [tuple(int(channel) for channel in colour) for colour in c.palette * 255]
    image = Image.new("RGB", (c.size, c.size), colours[0])
    return image, ImageDraw.Draw(image), colours
