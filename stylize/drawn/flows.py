"""Built-in style pictures made of lines, strokes and currents; each function draws one canvas as (size, size, 3)."""

import numpy as np

from stylize.drawn.canvas import TAU, Array, Canvas, cover, shade, start_drawing


def brush_strokes(c: Canvas) -> Array:
    """Return strokes that follow a smooth field of directions."""
    image, draw, colours = start_drawing(c)
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


def circles(c: Canvas) -> Array:
    """Return overlapping ringed discs."""
    image, draw, colours = start_drawing(c)
    for k, (x, y, draw_of_size) in enumerate(c.rng.random((260, 3))):
        reach = (0.03 + 0.14 * draw_of_size**2) * (1 - 0.6 * k / 260)
        for ring in range(4):
            radius = reach * (1 - ring / 4)
            box = [part * c.size for part in (x - radius, y - radius, x + radius, y + radius)]
            draw.ellipse(box, colours[(k + ring * (1 + k % 2)) % len(colours)])
    return np.asarray(image, np.float32) / 255


def contours(c: Canvas) -> Array:
    """Return a map's contour lines over colours of height."""
    height = c.noise(4, 3) * 16
    lines = np.abs(height % 1 - 0.5) > 0.40
    return cover(c.pick(1 + height.astype(np.int64) // 2 % (len(c.palette) - 1)), c.palette[0], lines)


def flames(c: Canvas) -> Array:
    """Return layers of tongues, the hottest in front."""
    x, y = c.grid()
    picture = c.ramp(0.15 * c.noise(4, 3))
    for layer in range(1, 11):
        sway = x + 0.05 * np.sin(11 * y + c.rng.uniform(0, TAU)) + 0.05 * c.noise(5, 2)
        tongue = 1 - np.abs(np.sin(np.pi * (sway * c.rng.uniform(2, 5) + c.rng.random())))
        depth = y - 0.09 * layer + 0.1 + 0.45 * tongue**1.5 * (0.4 + c.noise(3))
        heat = layer / 11 + 0.12 * np.clip(1 - depth * 6, -0.5, 1)
        picture = cover(picture, c.ramp(heat), depth > 0.2)
    return picture


def hatching(c: Canvas) -> Array:
    """Return inked lines in four directions, denser where it is dark."""
    x, y = c.grid()
    tone, wobble = c.noise(4, 2), 0.03 * c.noise(12)
    picture = c.ramp(0.3 + 0.7 * c.noise(3))
    for layer, angle in enumerate((0.8, -0.6, 0.1, 1.5)):
        stripe = np.abs((np.cos(angle) * x + np.sin(angle) * y + wobble) * (44 + 6 * layer) % 1 - 0.5)
        darkness = np.clip(0.72 - tone - 0.16 * layer, 0, 0.2)
        picture = cover(picture, c.palette[layer % 2], stripe < darkness)
    return picture


def marble(c: Canvas) -> Array:
    """Return veined stone."""
    x, y = c.grid()
    flow = 2.5 * x + 1.5 * y + 2.4 * c.noise(3, 5)
    body = c.ramp(0.2 + 0.8 * np.abs(np.sin(flow * 9 + 3 * c.noise(8, 4))) ** 0.8)
    veins = np.exp(-16 * np.abs(np.sin(flow * 5))) + 0.7 * np.exp(-30 * np.abs(np.sin(flow * 11 + 4 * c.noise(5, 3))))
    return cover(body, c.palette[0], np.clip(veins, 0, 1))


def splatter(c: Canvas) -> Array:
    """Return dripped curls and drops of paint."""
    image, draw, colours = start_drawing(c)
    for k in range(90):
        colour = colours[1 + k % (len(colours) - 1)]
        bends = c.rng.normal(0, 0.003, (60, 2)).cumsum(0).cumsum(0)
        path = [(float(px), float(py)) for px, py in (c.rng.random(2) + bends) * c.size]
        draw.line(path, colour, round(c.size * c.rng.uniform(0.004, 0.02)), "curve")
        for px, py, radius in c.rng.random((6, 3)) * (c.size, c.size, 0.014 * c.size):
            draw.ellipse([px - radius, py - radius, px + radius, py + radius], colour)
    return np.asarray(image, np.float32) / 255


def swirls(c: Canvas) -> Array:
    """Return bands twisted by vortices."""
    x, y = c.grid()
    for cx, cy, reach, twist in c.rng.uniform((0, 0, 0.12, 3), (1, 1, 0.3, 7), (9, 4)):
        dx, dy = x - cx, y - cy
        angle = c.rng.choice((-twist, twist)) * np.exp(-(dx**2 + dy**2) / reach**2)
        x, y = cx + np.cos(angle) * dx - np.sin(angle) * dy, cy + np.sin(angle) * dx + np.cos(angle) * dy
    bands = 0.5 + 0.5 * np.sin(TAU * (4 * y + 1.5 * x) + 3 * np.sin(9 * x))
    strokes = 0.5 + 0.5 * np.sin(TAU * (26 * y + 9 * x))
    return shade(c.ramp(0.85 * bands + 0.15 * strokes), 0.75 + 0.25 * strokes)


def waves(c: Canvas) -> Array:
    """Return foamed, rippled wave bands."""
    x, y = c.grid()
    phase = c.rng.uniform(0, TAU, 3)
    crest = 0.06 * np.abs(np.sin(x * 9 + 3 * y + phase[0])) + 0.03 * np.sin(x * 23 - 9 * y + phase[1])
    height = (y + crest + 0.1 * c.noise(3)) * 11
    band, inside = height.astype(np.int64), height % 1
    ripple = np.sin(inside * 26 + phase[2]) * 0.12
    body = shade(c.pick(band + (inside > 0.45)), 1.05 - 0.35 * inside + ripple)
    return cover(body, c.palette[-1], inside < 0.1 + 0.12 * c.noise(40))
