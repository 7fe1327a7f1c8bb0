"""The pictures that decoders are trained on: content, styles, and random variations of them."""

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from stylize.console import InputError
from stylize.fitting import FitSettings
from stylize.networks import ALL_PATTERNS
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder, unit_range
from stylize.shards.decode import PictureError, decode_picture, encode_png
from stylize.sources.folder import PictureFile, list_pictures
from stylize.sources.patterns import PATTERN_NAMES, TAU, Canvas, cover, draw_pattern

PATTERN_VARIATIONS = 60  # arrangements and palettes per built-in pattern
DECODED_PICTURES = 2000  # kept in memory by each process: decoding a photo takes longer than cropping it
DECODED_SIDE = 512  # of these, the short one at most: scans of paintings would fill the memory
SAMPLE_SIDE = 96
LUMINANCES = np.linspace(0, 1, 256)


@dataclass(frozen=True)
class Pool:
    """What batches are drawn from: content pictures, style pictures, and names of built-in patterns."""

    content: tuple[PictureFile, ...]
    styles: tuple[PictureFile, ...]
    patterns: tuple[str, ...]


def is_held_out(name: str, fraction: float) -> bool:
    """Return whether the hash of its name puts a picture into the held-out fraction."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def open_pool(content: Path, styles: Sequence[str], hold_out: Sequence[str], fraction: float) -> Pool:
    """List the training pictures, without a fraction of the contents (by hash) and the styles named in `hold_out`.

    Raises `InputError` where a path does not exist, a held-out name is unknown, or nothing is left to train on.
    """
    contents = [file for file in list_pictures(content) if not is_held_out(file.name, fraction)]
    names = [name for style in styles for name in (PATTERN_NAMES if style == ALL_PATTERNS else [style])]
    patterns = [name for name in names if name in PATTERN_NAMES]
    files = [file for name in names if name not in PATTERN_NAMES for file in list_pictures(Path(name))]
    if unknown := set(hold_out) - {file.stem for file in files} - set(patterns):
        raise InputError(f"Held-out styles not among the styles: {', '.join(sorted(unknown))}; check --hold-out.")
    kept_files = tuple(file for file in files if file.stem not in hold_out)
    kept_patterns = tuple(name for name in patterns if name not in hold_out)
    if not contents or not (kept_files or kept_patterns):
        raise InputError("Nothing is left to train on after holding out: give more content or style pictures.")
    return Pool(tuple(contents), kept_files, kept_patterns)


class CropBatches(Dataset[tuple[Tensor, Tensor]]):
    """Item i is step i's (content, style) crops, uint8 (B, 3, side, side), the same in every run.

    Styles have their own side where `style_side` names one.

    On odd steps the first content, which is paired with itself, is a style: the decoder must know their colours too.
    """

    def __init__(self, pool: Pool, settings: FitSettings, side: int, style_side: int | None = None) -> None:
        self.pool, self.settings, self.side, self.style_side = pool, settings, side, style_side or side

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.settings.seed, self.side, step])
        batch = range(self.settings.batch_size)
        contents, styles = [self._content(self.side, rng) for _ in batch], [self._style(rng) for _ in batch]
        if step % 2:
            contents[0] = self._one_style(self.side, rng)
        return _stack(contents), _stack(styles)

    def _content(self, side: int, rng: np.random.Generator) -> Image.Image:
        file = self.pool.content[rng.integers(len(self.pool.content))]
        return random_crop(_remembered(file), side, rng)

    def _style(self, rng: np.random.Generator) -> Image.Image:
        crop = self._one_style(self.style_side, rng)
        if rng.random() >= self.settings.combined_share:
            return crop
        return combine(crop, self._one_style(self.style_side, rng), rng)

    def _one_style(self, side: int, rng: np.random.Generator) -> Image.Image:
        if rng.random() < self.settings.photo_share:
            crop = self._content(side, rng)
            return self._recolour(paint(crop, rng), rng) if rng.random() < self.settings.painted_share else crop
        if rng.random() < self.settings.texture_share:
            return draw_texture(side, rng)
        if self.pool.patterns and (rng.random() < self.settings.pattern_share or not self.pool.styles):
            name = self.pool.patterns[rng.integers(len(self.pool.patterns))]
            picture = _pattern(name, int(rng.integers(PATTERN_VARIATIONS)))
        else:
            picture = _remembered(self.pool.styles[rng.integers(len(self.pool.styles))])
        crop = random_crop(picture, side, rng)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.ROTATE_90)
        return self._recolour(crop, rng)

    def _recolour(self, crop: Image.Image, rng: np.random.Generator) -> Image.Image:
        return recolour(crop, rng) if rng.random() < self.settings.recoloured_share else crop


@cache
def _pattern(name: str, seed: int) -> Image.Image:
    """Draw a pattern once per process: drawing takes longer than a training step should wait."""
    return draw_pattern(name, 256, seed)


@lru_cache(DECODED_PICTURES)
def _remembered(file: PictureFile) -> Image.Image:
    try:
        picture = decode_picture(file.read())
    except PictureError as error:  # without it, the decoder would be another one
        raise InputError(f"The picture {file.root}/{file.name} {error}: remove it.") from None
    scale = DECODED_SIDE / min(picture.size)
    return picture if scale >= 1 else ImageOps.scale(picture, scale, Image.Resampling.BICUBIC)


def random_crop(picture: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Crop a random square, from `side` pixels up to the whole short side, to side × side, and flip half of them.

    Its side is log-uniform: most crops keep about their own scale, at which photos are stylized.
    """
    short = min(picture.size)
    span = min(short, min(side, short) * (short / min(side, short)) ** rng.random())
    left, top = rng.uniform(0, picture.width - span), rng.uniform(0, picture.height - span)
    box = (left, top, left + span, top + span)
    crop = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _stack(pictures: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


@torch.no_grad()
def sample_sheet(decoder: Decoder, encoder: Encoder, pool: Pool, settings: FitSettings) -> bytes:
    """Return a PNG with the same crops every time: a row of photos, of styles, and of photos in these styles.

    The crops are of training pictures, so that held-out ones stay unseen until the decoder is judged.
    """
    content, style = CropBatches(pool, settings, SAMPLE_SIDE)[0]
    device, dtype = next(decoder.parameters()).device, next(encoder.parameters()).dtype
    network = AdaINNetwork(encoder, decoder)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        statistics = network.style_statistics(unit_range(style.to(device)))
        stylized = network(unit_range(content.to(device)), *statistics)
    rows = [content, style, (stylized.float() * 255).round().byte().cpu()]
    pixels = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return encode_png(Image.fromarray(pixels.permute(1, 2, 0).numpy()))


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
    draw = rng.random
    palette = np.array([colorsys.hsv_to_rgb(draw(), draw() ** 0.5, draw() ** 0.5) for _ in range(colours)])
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
