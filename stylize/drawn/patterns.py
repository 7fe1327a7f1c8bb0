"""Built-in procedural style pictures, original to this project: no picture from elsewhere is needed for a style."""

import colorsys
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageColor

from stylize.drawn import flows, tilings
from stylize.drawn.canvas import Array, Canvas, shade
from stylize.errors import InputError

_STYLES: dict[str, tuple[Callable[[Canvas], Array], str]] = {
    "bricks": (tilings.bricks, "#3b1f4a #d1495b #e8743b #c8553d #f0a35e #8f2d56"),
    "brush-strokes": (flows.brush_strokes, "#0b2a6f #1456a8 #2a8fd0 #5cc6c9 #f4c430 #f08a24"),
    "checkers": (tilings.checkers, "#16114a #ff3d7f #ffd23f #3bceac #0ead69 #ee4266"),
    "circles": (flows.circles, "#13315c #f95738 #ee964b #f4d35e #1b998b #d7263d"),
    "contours": (flows.contours, "#5a2a0c #1f7a4d #5bb450 #b9d748 #f6d743 #f49f0a"),
    "crystals": (tilings.crystals, "#4b1fa8 #7b2ff7 #c13bf0 #29b6f6 #4de3f0 #f06bd0"),
    "dots": (tilings.dots, "#fff04d #e5144d #ffb000 #0a4fd6 #ff7ac0"),
    "flames": (flows.flames, "#2b0a3d #7a0c3a #c9182b #f2541b #fb9b1e #ffe14a"),
    "hatching": (flows.hatching, "#0d2b6b #7a1f5c #e0a43a #f2c75c #f7d98a"),
    "marble": (flows.marble, "#d9a520 #0a4d4a #0f7a6b #2fae8e #8ee0b8"),
    "mosaic": (tilings.mosaic, "#0a3a78 #1273c4 #18b5c9 #f5b82e #e2572b #a3195b"),
    "scales": (tilings.scales, "#0d4f8b #1aa6a6 #74d3ae #f6e27f #f29e4c"),
    "splatter": (flows.splatter, "#f3d34a #12204f #d81e5b #0f8b8d #ec5a29 #5b1a8b"),
    "stained-glass": (tilings.stained_glass, "#1d2fb0 #d3162b #f2a900 #12924a #7a1fa2 #1ea7e1"),
    "sunburst": (tilings.sunburst, "#e63946 #f77f00 #fcbf49 #2a9d8f #1d3f8f"),
    "swirls": (flows.swirls, "#0a1f5c #1b4fa8 #2f8fd8 #8fd3f0 #f7e06a #f0a51e"),
    "waves": (flows.waves, "#0b3c6f #14679e #1f9fb8 #67cfc4 #f0e2a0"),
    "weave": (tilings.weave, "#b3202a #e0662a #efb62f #2b7a3d #28508f #7d2a73"),
    "zigzag": (tilings.zigzag, "#4a0e4e #e4572e #17bebb #ffc914 #d81159 #2e86ab"),
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
