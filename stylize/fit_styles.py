"""Variations of style crops for `fit-decoder`: few paintings have all the palettes and textures that users bring."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

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
    """Make one style of two crops of the same size: side by side, or one shining through the other."""
    if rng.random() < 0.5:
        return Image.blend(first, second, rng.uniform(0.2, 0.8))
    collage = first.copy()
    collage.paste(second.crop((0, 0, int(first.width * rng.uniform(0.3, 0.7)), first.height)))
    return collage


def _picture(pixels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))
