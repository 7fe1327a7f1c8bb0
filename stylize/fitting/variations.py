"""Variations of style crops for `fit-decoder`, and textures: few paintings have all that users bring."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

from stylize.drawn.canvas import TAU, Canvas, cover

LUMINANCES = np.linspace(0, 1, 256)


def recolour(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Give a crop other colours: permuted channels, a turned colour space, or a random palette over luminance."""
    way = (_permute_channels, _turn_colours, _map_luminance)[rng.integers(3)]
    return way(crop, rng)


def _permute_channels(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    channels = crop.split()
    return Image.merge("RGB", [channels[index] for index in rng.permutation(3)])


def _turn_colours(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn the colours about their mean in RGB space, with another contrast and another mean."""
    pixels = np.asarray(crop, np.float64) / 255
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = (pixels - pixels.mean((0, 1))) @ turn * rng.uniform(0.7, 1.8) + rng.uniform(0.15, 0.85, 3)
    return _picture(turned)


def _map_luminance(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Replace luminances by a palette of two to five colours, and keep some of the crop's own colours."""
    palette = _random_palette(int(rng.integers(2, 6)), rng)
    stops = np.linspace(0, 1, len(palette))
    ramp = np.stack([np.interp(LUMINANCES, stops, channel) for channel in palette.T], axis=-1)
    grey = np.asarray(ImageOps.autocontrast(crop.convert("L")))
    return Image.blend(crop, _picture(ramp[grey]), rng.uniform(0.5, 1))


def _random_palette(colours: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw colours of random hue, mostly saturated; half of the palettes go from dark to light."""
    palette = np.array(
        [colorsys.hsv_to_rgb(rng.random(), rng.random() ** 0.5, rng.random() ** 0.5) for _ in range(colours)]
    )
    return palette[palette.sum(1).argsort()] if rng.random() < 0.5 else palette


def paint(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn a photo into something painted: areas flattened by a mode filter, few tones, or dark contours."""
    if rng.random() < 0.7:
        crop = crop.filter(ImageFilter.ModeFilter(int(rng.choice([3, 5, 7]))))
    if rng.random() < 0.4:
        crop = ImageOps.posterize(crop, int(rng.integers(2, 4)))
    if rng.random() < 0.5:
        edges = ImageOps.autocontrast(crop.filter(ImageFilter.FIND_EDGES).convert("L"), cutoff=2)
        crop = ImageChops.multiply(crop, ImageOps.invert(edges).convert("RGB"))
    return crop


def combine(first: Image.Image, second: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Make one style of two square crops of the same size: mixed, side by side, or one in patches on the other."""
    way = rng.integers(3)
    if way == 0:
        return Image.blend(first, second, rng.uniform(0.2, 0.8))
    field = banded_noise(first.width, rng) if way == 1 else np.linspace(0, 1, first.width)[None].repeat(first.height, 0)
    mask = Image.fromarray((field < rng.uniform(0.3, 0.7)).astype(np.uint8) * 255)
    return Image.composite(first, second, mask)


def draw_texture(side: int, rng: np.random.Generator) -> Image.Image:
    """Draw a texture of side × side pixels: noise as a gradient or flat areas of a palette, maybe with lines."""
    palette = _random_palette(int(rng.integers(2, 7)), rng)
    canvas, field, steps = Canvas(2 * side, palette, rng), banded_noise(2 * side, rng), rng.integers(2, 10)
    picture = canvas.ramp(field) if rng.random() < 0.5 else canvas.pick((field * steps).astype(np.int64))
    if rng.random() < 0.5:
        level = (field if rng.random() < 0.5 else banded_noise(2 * side, rng)) * steps
        lines = np.abs(level % 1 - 0.5) > rng.uniform(0.2, 0.45)
        picture = cover(picture, canvas.pick(rng.integers(6, size=(1, 1))), lines)
    return _picture(picture + rng.normal(0, rng.uniform(0, 0.1), (2 * side, 2 * side, 1))).reduce(2)


def banded_noise(side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise (side, side) with uniform values in [0, 1], of a random band of frequencies and maybe a direction.

    Half of it is warped by other noise.
    """
    down, right = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    frequency, angle = np.hypot(down, right), np.arctan2(down, right)
    centre, octaves = (side / 24) ** -rng.random() / 12, rng.uniform(0.1, 1.2)  # 12 pixels to half the side
    band = np.exp(-np.square(np.log2((frequency + 1e-9) / centre) / octaves) / 2)
    direction = np.exp(rng.choice([0, 0, 2, 10]) * np.cos(2 * (angle - rng.uniform(0, np.pi))))
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * band * direction, (side, side))
    uniform = np.empty(side * side)
    uniform[field.ravel().argsort()] = np.linspace(0, 1, side * side)
    return _warped(uniform.reshape(side, side), rng) if rng.random() < 0.5 else uniform.reshape(side, side)


def _warped(field: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Move every value by smooth waves, around the borders."""
    side, reach = len(field), rng.uniform(0.02, 0.15)
    phase, waves = rng.uniform(0, TAU, 2), rng.integers(1, 6, 2)
    axis = np.arange(side)
    shifts = (reach * side * np.sin(TAU * waves[:, None] * axis / side + phase[:, None])).astype(np.int64)
    moved: NDArray[np.float64] = field[(axis[:, None] + shifts[0]) % side, (axis + shifts[1][:, None]) % side]
    return moved


def _picture(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))
