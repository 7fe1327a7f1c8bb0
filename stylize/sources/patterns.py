"""Built-in procedural style pictures, original to this project: no picture from elsewhere is needed for a style."""

import colorsys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from stylize.console import InputError

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


def _start_drawing(c: Canvas) -> tuple[Image.Image, ImageDraw.ImageDraw, list[tuple[int, ...]]]:
    """Return a picture filled with the palette's first colour, its drawing tool, and the palette for Pillow."""
    colours = [tuple(int(channel) for channel in colour) for colour in c.palette * 255]
    image = Image.new("RGB", (c.size, c.size), colours[0])
    return image, ImageDraw.Draw(image), colours


def _brush_strokes(c: Canvas) -> Array:
    image, draw, colours = _start_drawing(c)
    lattice = Canvas(64, c.palette, c.rng)
    angle, tone = lattice.noise(3) * 1.5 * TAU, lattice.noise(4, 2)
    for k, (x, y, jitter, length) in enumerate(c.rng.random((2600, 4))):
        at = int(y * 64), int(x * 64)
        dx, dy = np.cos(angle[at]) * (0.02 + 0.03 * length), np.sin(angle[at]) * (0.02 + 0.03 * length)
        colour = colours[int((tone[at] + 0.25 * jitter) / 1.25 * len(colours) * 0.999)]
        width = c.size * (0.022 if k < 1200 else 0.009)
        ends = [((x + s * dx) * c.size, (y + s * dy) * c.size) for s in (-1, 1)]
        draw.line(ends, tuple(int(v * (0.75 + 0.25 * length)) for v in colour), round(width))
    return np.asarray(image, np.float32) / 255


def _circles(c: Canvas) -> Array:
    image, draw, colours = _start_drawing(c)
    for k, (x, y, draw_of_size) in enumerate(c.rng.random((260, 3))):
        reach = (0.03 + 0.14 * draw_of_size**2) * (1 - 0.6 * k / 260)
        for ring in range(4):
            radius = reach * (1 - ring / 4)
            box = [part * c.size for part in (x - radius, y - radius, x + radius, y + radius)]
            draw.ellipse(box, colours[(k + ring * (1 + k % 2)) % len(colours)])
    return np.asarray(image, np.float32) / 255


def _contours(c: Canvas) -> Array:
    height = c.noise(4, 3) * 16
    lines = np.abs(height % 1 - 0.5) > 0.40
    return cover(c.pick(1 + height.astype(np.int64) // 2 % (len(c.palette) - 1)), c.palette[0], lines)


def _flames(c: Canvas) -> Array:
    x, y = c.grid()
    picture = c.ramp(0.15 * c.noise(4, 3))
    for layer in range(1, 11):
        sway = x + 0.05 * np.sin(11 * y + c.rng.uniform(0, TAU)) + 0.05 * c.noise(5, 2)
        tongue = 1 - np.abs(np.sin(np.pi * (sway * c.rng.uniform(2, 5) + c.rng.random())))
        depth = y - 0.09 * layer + 0.1 + 0.45 * tongue**1.5 * (0.4 + c.noise(3))
        heat = layer / 11 + 0.12 * np.clip(1 - depth * 6, -0.5, 1)
        picture = cover(picture, c.ramp(heat), depth > 0.2)
    return picture


def _hatching(c: Canvas) -> Array:
    x, y = c.grid()
    tone, wobble = c.noise(4, 2), 0.03 * c.noise(12)
    picture = c.ramp(0.3 + 0.7 * c.noise(3))
    for layer, angle in enumerate((0.8, -0.6, 0.1, 1.5)):
        stripe = np.abs((np.cos(angle) * x + np.sin(angle) * y + wobble) * (44 + 6 * layer) % 1 - 0.5)
        darkness = np.clip(0.72 - tone - 0.16 * layer, 0, 0.2)
        picture = cover(picture, c.palette[layer % 2], stripe < darkness)
    return picture


def _marble(c: Canvas) -> Array:
    x, y = c.grid()
    flow = 2.5 * x + 1.5 * y + 2.4 * c.noise(3, 5)
    body = c.ramp(0.2 + 0.8 * np.abs(np.sin(flow * 9 + 3 * c.noise(8, 4))) ** 0.8)
    veins = np.exp(-16 * np.abs(np.sin(flow * 5))) + 0.7 * np.exp(-30 * np.abs(np.sin(flow * 11 + 4 * c.noise(5, 3))))
    return cover(body, c.palette[0], np.clip(veins, 0, 1))


def _splatter(c: Canvas) -> Array:
    image, draw, colours = _start_drawing(c)
    for k in range(90):
        colour = colours[1 + k % (len(colours) - 1)]
        bends = c.rng.normal(0, 0.003, (60, 2)).cumsum(0).cumsum(0)
        path = [(float(px), float(py)) for px, py in (c.rng.random(2) + bends) * c.size]
        draw.line(path, colour, round(c.size * c.rng.uniform(0.004, 0.02)), "curve")
        for px, py, radius in c.rng.random((6, 3)) * (c.size, c.size, 0.014 * c.size):
            draw.ellipse([px - radius, py - radius, px + radius, py + radius], colour)
    return np.asarray(image, np.float32) / 255


def _swirls(c: Canvas) -> Array:
    x, y = c.grid()
    for cx, cy, reach, twist in c.rng.uniform((0, 0, 0.12, 3), (1, 1, 0.3, 7), (9, 4)):
        dx, dy = x - cx, y - cy
        angle = c.rng.choice((-twist, twist)) * np.exp(-(dx**2 + dy**2) / reach**2)
        x, y = cx + np.cos(angle) * dx - np.sin(angle) * dy, cy + np.sin(angle) * dx + np.cos(angle) * dy
    bands = 0.5 + 0.5 * np.sin(TAU * (4 * y + 1.5 * x) + 3 * np.sin(9 * x))
    strokes = 0.5 + 0.5 * np.sin(TAU * (26 * y + 9 * x))
    return shade(c.ramp(0.85 * bands + 0.15 * strokes), 0.75 + 0.25 * strokes)


def _waves(c: Canvas) -> Array:
    x, y = c.grid()
    phase = c.rng.uniform(0, TAU, 3)
    crest = 0.06 * np.abs(np.sin(x * 9 + 3 * y + phase[0])) + 0.03 * np.sin(x * 23 - 9 * y + phase[1])
    height = (y + crest + 0.1 * c.noise(3)) * 11
    band, inside = height.astype(np.int64), height % 1
    ripple = np.sin(inside * 26 + phase[2]) * 0.12
    body = shade(c.pick(band + (inside > 0.45)), 1.05 - 0.35 * inside + ripple)
    return cover(body, c.palette[-1], inside < 0.1 + 0.12 * c.noise(40))


def _bricks(c: Canvas) -> Array:
    x, y = c.grid()
    warp = 0.008 * c.noise(20)
    row = ((y + warp) * 17).astype(np.int64)
    along = (x + warp) * 8 + 0.5 * (row % 2)
    brick = c.scatter(row * 11 + along.astype(np.int64))
    u, v = np.abs(along % 1 - 0.5), np.abs((y + warp) * 17 % 1 - 0.5)
    light = 0.7 + 0.5 * c.noise(24, 3) + 0.1 * (brick % 3)
    body = shade(c.pick(1 + brick % (len(c.palette) - 1)), light)
    return cover(body, c.palette[0], (u > 0.465) | (v > 0.42))


def _checkers(c: Canvas) -> Array:
    x, y = c.grid()
    u, v = x + 0.25 * c.noise(3), y + 0.25 * c.noise(3)
    column, row = (u * 11).astype(np.int64), (v * 11).astype(np.int64)
    ring = np.maximum(np.abs(u * 11 % 1 - 0.5), np.abs(v * 11 % 1 - 0.5))
    dark = (column + row) % 2 == 0
    body = cover(c.pick(2 + c.scatter(column + 16 * row) % (len(c.palette) - 2)), c.palette[0], dark)
    return cover(body, c.palette[1], (ring < 0.28) & (ring > 0.16))


def _crystals(c: Canvas) -> Array:
    x, y = c.grid()
    code, light = np.zeros(x.shape, np.int64), np.zeros_like(x)
    for angle, pitch, shift in c.rng.uniform((0, 2, 0), (np.pi, 5, 1), (6, 3)):
        fold = ((np.cos(angle) * x + np.sin(angle) * y) * pitch + shift) % 2
        code = code * 2 + (fold > 1)
        light += np.abs(fold - 1) / 6 + 0.25 * (np.abs(fold - 1) > 0.97)
    facets = np.abs(light * 9 % 1 - 0.5)
    return shade(c.pick(c.scatter(code)), 0.35 + light + 0.35 * facets)


def _dots(c: Canvas) -> Array:
    x, y = c.grid()
    picture = c.ramp(c.noise(2))
    for layer, (count, angle) in enumerate(((13, 0.3), (22, 0.8), (40, 1.2))):
        u, v = (np.cos(angle) * x + np.sin(angle) * y) * count, (np.cos(angle) * y - np.sin(angle) * x) * count
        radius = 0.1 + 0.45 * c.noise(4) ** 1.5
        distance = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
        picture = cover(picture, c.palette[(2 * layer + 1) % len(c.palette)], distance < radius)
    return picture


def _mosaic(c: Canvas) -> Array:
    owner, centre, border = c.cells(24, 0.45)
    tone = np.bincount(owner.ravel(), c.noise(3, 2).ravel()) / np.bincount(owner.ravel()).clip(1)  # mean of each tile
    tiles = shade(
        c.pick((tone * 1.6 * len(c.palette)).astype(np.int64)[owner]), 0.8 + 0.4 * (c.scatter(owner) % 97 / 97)
    )
    return cover(shade(tiles, 1.1 - 0.4 * centre), c.palette[0] * 0.25, border < 0.13)


def _scales(c: Canvas) -> Array:
    x, y = c.grid()
    picture = np.zeros((*x.shape, 3), np.float32)
    hue = c.rng.integers(3, size=4096)
    for lower in (0, 1):
        row = (y * 20).astype(np.int64) + lower
        along = x * 10 + 0.5 * (row % 2)
        distance = np.hypot(along % 1 - 0.5, (y * 20 - row) * 0.5)
        ring = hue[along.astype(np.int64) // 2 + 31 * (row // 2)] + (distance * 10).astype(np.int64)
        picture = cover(picture, shade(c.pick(ring), 1.2 - distance), distance < 0.5)
    return picture


def _stained_glass(c: Canvas) -> Array:
    owner, centre, border = c.cells(7, 0.95)
    glow = 1.15 - 0.5 * centre + 0.25 * (c.noise(30, 2) - 0.5)
    return cover(shade(c.pick(c.scatter(owner)), glow), c.palette[0] * 0.12, border < 0.09)


def _sunburst(c: Canvas) -> Array:
    x, y = c.grid()
    cx, cy = c.rng.uniform(0.35, 0.65, 2)
    radius = np.hypot(x - cx, y - cy) * 12
    ring = (radius + 0.4 * c.noise(4)).astype(np.int64)
    sector = (np.arctan2(y - cy, x - cx) / TAU + 0.5) * (12 + 6 * (ring // 2)) + 0.5 * ring
    light = 0.65 + 0.5 * np.abs(sector % 1 - 0.5) + 0.25 * (radius % 1)
    return shade(c.pick(sector.astype(np.int64) + ring), light)


def _weave(c: Canvas) -> Array:
    x, y = (axis * 14 for axis in c.grid())
    column, row = x.astype(np.int64), y.astype(np.int64)
    over = (column + row) % 2 == 0
    along, across = np.where(over, x, y) % 1, np.where(over, y, x) % 1
    thread = np.where(over, c.scatter(row), c.scatter(column + 99))
    fibre = 0.85 + 0.15 * np.sin(across * TAU * 4 + 3 * along)
    light = np.sqrt(np.clip(np.sin(along * np.pi), 0.12, 1)) * fibre * np.where(np.abs(across - 0.5) > 0.42, 0.35, 1)
    return shade(c.pick(thread), light)


def _zigzag(c: Canvas) -> Array:
    x, y = c.grid()
    tooth = np.abs(x * 7 % 1 - 0.5)
    height = (y + 0.16 * tooth + 0.05 * c.noise(3)) * 16
    band, inside = height.astype(np.int64), height % 1
    stitches = (inside * 3 % 1 < 0.5) & (c.scatter(band + 500) % 3 == 0)
    return cover(cover(c.pick(c.scatter(band)), c.pick(band), stitches), c.palette[0], inside < 0.14)


_STYLES: dict[str, tuple[Callable[[Canvas], Array], str]] = {
    "bricks": (_bricks, "#3b1f4a #d1495b #e8743b #c8553d #f0a35e #8f2d56"),
    "brush-strokes": (_brush_strokes, "#0b2a6f #1456a8 #2a8fd0 #5cc6c9 #f4c430 #f08a24"),
    "checkers": (_checkers, "#16114a #ff3d7f #ffd23f #3bceac #0ead69 #ee4266"),
    "circles": (_circles, "#13315c #f95738 #ee964b #f4d35e #1b998b #d7263d"),
    "contours": (_contours, "#5a2a0c #1f7a4d #5bb450 #b9d748 #f6d743 #f49f0a"),
    "crystals": (_crystals, "#4b1fa8 #7b2ff7 #c13bf0 #29b6f6 #4de3f0 #f06bd0"),
    "dots": (_dots, "#fff04d #e5144d #ffb000 #0a4fd6 #ff7ac0"),
    "flames": (_flames, "#2b0a3d #7a0c3a #c9182b #f2541b #fb9b1e #ffe14a"),
    "hatching": (_hatching, "#0d2b6b #7a1f5c #e0a43a #f2c75c #f7d98a"),
    "marble": (_marble, "#d9a520 #0a4d4a #0f7a6b #2fae8e #8ee0b8"),
    "mosaic": (_mosaic, "#0a3a78 #1273c4 #18b5c9 #f5b82e #e2572b #a3195b"),
    "scales": (_scales, "#0d4f8b #1aa6a6 #74d3ae #f6e27f #f29e4c"),
    "splatter": (_splatter, "#f3d34a #12204f #d81e5b #0f8b8d #ec5a29 #5b1a8b"),
    "stained-glass": (_stained_glass, "#1d2fb0 #d3162b #f2a900 #12924a #7a1fa2 #1ea7e1"),
    "sunburst": (_sunburst, "#e63946 #f77f00 #fcbf49 #2a9d8f #1d3f8f"),
    "swirls": (_swirls, "#0a1f5c #1b4fa8 #2f8fd8 #8fd3f0 #f7e06a #f0a51e"),
    "waves": (_waves, "#0b3c6f #14679e #1f9fb8 #67cfc4 #f0e2a0"),
    "weave": (_weave, "#b3202a #e0662a #efb62f #2b7a3d #28508f #7d2a73"),
    "zigzag": (_zigzag, "#4a0e4e #e4572e #17bebb #ffc914 #d81159 #2e86ab"),
}
PATTERNS: dict[str, Callable[[Canvas], Array]] = {name: function for name, (function, _) in _STYLES.items()}
PATTERN_NAMES: tuple[str, ...] = tuple(sorted(PATTERNS))
# Kept from the decoder's training, so that its quality can be judged on styles that it never saw.
HELD_OUT_PATTERNS: tuple[str, ...] = ("brush-strokes", "contours", "crystals", "dots", "stained-glass", "weave")


def _palette(name: str, seed: int, rng: np.random.Generator) -> Array:
    """Return the pattern's own palette for seed 0, else any pattern's, with its hues turned by a random angle."""
    own = seed == 0
    source = name if own else PATTERN_NAMES[rng.integers(len(PATTERN_NAMES))]
    turn = 0.0 if own else rng.random()
    colours = []
    for code in _STYLES[source][1].split():
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in ImageColor.getrgb(code)[:3]))
        colours.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    return np.array(colours, np.float32)


def draw_pattern(name: str, size: int = 256, seed: int = 0) -> Image.Image:
    """Draw a built-in style as an RGB picture of size × size pixels.

    Seed 0 has the pattern's own palette; other seeds vary arrangement and palette. The same arguments give the same
    picture. Raises `InputError` for an unknown name, a size below 8 or a negative seed.
    """
    if name not in PATTERNS:
        raise InputError(f"There is no built-in style {name!r}: choose one of {', '.join(PATTERN_NAMES)}.")
    if size < 8 or seed < 0:
        raise InputError(f"A built-in style needs size >= 8 and seed >= 0, not size {size} and seed {seed}.")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    canvas = Canvas(2 * size, _palette(name, seed, rng), rng)
    grain = 0.9 + 0.2 * canvas.noise(96)
    pixels = np.clip(shade(PATTERNS[name](canvas), grain), 0, 1)
    return Image.fromarray((pixels * 255 + 0.5).astype(np.uint8)).reduce(2)
