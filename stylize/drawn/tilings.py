"""Built-in style pictures made of repeated elements; each function draws one canvas as (size, size, 3)."""

import numpy as np

from stylize.drawn.canvas import TAU, Array, Canvas, cover, shade


def bricks(c: Canvas) -> Array:
    """Return a wall of rough bricks in mortar."""
    x, y = c.grid()
    warp = 0.008 * c.noise(20)
    row = ((y + warp) * 17).astype(np.int64)
    along = (x + warp) * 8 + 0.5 * (row % 2)
    brick = c.scatter(row * 11 + along.astype(np.int64))
    u, v = np.abs(along % 1 - 0.5), np.abs((y + warp) * 17 % 1 - 0.5)
    light = 0.7 + 0.5 * c.noise(24, 3) + 0.1 * (brick % 3)
    body = shade(c.pick(1 + brick % (len(c.palette) - 1)), light)
    return cover(body, c.palette[0], (u > 0.465) | (v > 0.42))


def checkers(c: Canvas) -> Array:
    """Return a warped checkerboard with a frame in every square."""
    x, y = c.grid()
    u, v = x + 0.25 * c.noise(3), y + 0.25 * c.noise(3)
    column, row = (u * 11).astype(np.int64), (v * 11).astype(np.int64)
    ring = np.maximum(np.abs(u * 11 % 1 - 0.5), np.abs(v * 11 % 1 - 0.5))
    dark = (column + row) % 2 == 0
    body = cover(c.pick(2 + c.scatter(column + 16 * row) % (len(c.palette) - 2)), c.palette[0], dark)
    return cover(body, c.palette[1], (ring < 0.28) & (ring > 0.16))


def crystals(c: Canvas) -> Array:
    """Return overlapping folded planes with facets."""
    x, y = c.grid()
    code, light = np.zeros(x.shape, np.int64), np.zeros_like(x)
    for angle, pitch, shift in c.rng.uniform((0, 2, 0), (np.pi, 5, 1), (6, 3)):
        fold = ((np.cos(angle) * x + np.sin(angle) * y) * pitch + shift) % 2
        code = code * 2 + (fold > 1)
        light += np.abs(fold - 1) / 6 + 0.25 * (np.abs(fold - 1) > 0.97)
    facets = np.abs(light * 9 % 1 - 0.5)
    return shade(c.pick(c.scatter(code)), 0.35 + light + 0.35 * facets)


def dots(c: Canvas) -> Array:
    """Return three rotated halftone screens."""
    x, y = c.grid()
    picture = c.ramp(c.noise(2))
    for layer, (count, angle) in enumerate(((13, 0.3), (22, 0.8), (40, 1.2))):
        u, v = (np.cos(angle) * x + np.sin(angle) * y) * count, (np.cos(angle) * y - np.sin(angle) * x) * count
        radius = 0.1 + 0.45 * c.noise(4) ** 1.5
        distance = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
        picture = cover(picture, c.palette[(2 * layer + 1) % len(c.palette)], distance < radius)
    return picture


def mosaic(c: Canvas) -> Array:
    """Return small uneven tiles in grout, coloured by region."""
    owner, centre, border = c.cells(24, 0.45)
    tone = np.bincount(owner.ravel(), c.noise(3, 2).ravel()) / np.bincount(owner.ravel()).clip(1)  # mean of each tile
    tiles = shade(
        c.pick((tone * 1.6 * len(c.palette)).astype(np.int64)[owner]), 0.8 + 0.4 * (c.scatter(owner) % 97 / 97)
    )
    return cover(shade(tiles, 1.1 - 0.4 * centre), c.palette[0] * 0.25, border < 0.13)


def scales(c: Canvas) -> Array:
    """Return rows of overlapping ringed scales."""
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


def stained_glass(c: Canvas) -> Array:
    """Return large glowing panes in dark leads."""
    owner, centre, border = c.cells(7, 0.95)
    glow = 1.15 - 0.5 * centre + 0.25 * (c.noise(30, 2) - 0.5)
    return cover(shade(c.pick(c.scatter(owner)), glow), c.palette[0] * 0.12, border < 0.09)


def sunburst(c: Canvas) -> Array:
    """Return rings of segments around a centre."""
    x, y = c.grid()
    cx, cy = c.rng.uniform(0.35, 0.65, 2)
    radius = np.hypot(x - cx, y - cy) * 12
    ring = (radius + 0.4 * c.noise(4)).astype(np.int64)
    sector = (np.arctan2(y - cy, x - cx) / TAU + 0.5) * (12 + 6 * (ring // 2)) + 0.5 * ring
    light = 0.65 + 0.5 * np.abs(sector % 1 - 0.5) + 0.25 * (radius % 1)
    return shade(c.pick(sector.astype(np.int64) + ring), light)


def weave(c: Canvas) -> Array:
    """Return threads that pass over and under each other."""
    x, y = (axis * 14 for axis in c.grid())
    column, row = x.astype(np.int64), y.astype(np.int64)
    over = (column + row) % 2 == 0
    along, across = np.where(over, x, y) % 1, np.where(over, y, x) % 1
    thread = np.where(over, c.scatter(row), c.scatter(column + 99))
    fibre = 0.85 + 0.15 * np.sin(across * TAU * 4 + 3 * along)
    light = np.sqrt(np.clip(np.sin(along * np.pi), 0.12, 1)) * fibre * np.where(np.abs(across - 0.5) > 0.42, 0.35, 1)
    return shade(c.pick(thread), light)


def zigzag(c: Canvas) -> Array:
    """Return chevron bands, some of them stitched."""
    x, y = c.grid()
    tooth = np.abs(x * 7 % 1 - 0.5)
    height = (y + 0.16 * tooth + 0.05 * c.noise(3)) * 16
    band, inside = height.astype(np.int64), height % 1
    stitches = (inside * 3 % 1 < 0.5) & (c.scatter(band + 500) % 3 == 0)
    return cover(cover(c.pick(c.scatter(band)), c.pick(band), stitches), c.palette[0], inside < 0.14)
