"""Training batches for `fit-decoder`: every step's crops are a function of (seed, step), so that a run can resume."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from stylize.drawn.patterns import PATTERN_NAMES, draw_pattern
from stylize.engine.styles import ALL_PATTERNS
from stylize.errors import InputError
from stylize.fitting.settings import FitSettings
from stylize.fitting.variations import combine, draw_texture, paint, recolour
from stylize.sources.listing import list_pictures
from stylize.sources.picture_files import PictureFile
from stylize.sources.pictures import PictureError, decode_picture

HOLD_OUT_FRACTION = 0.1  # of the photos, by hash
PATTERN_VARIATIONS = 60  # arrangements and palettes per built-in pattern
DECODED_PICTURES = 2000  # kept in memory by each process: decoding a photo takes longer than cropping it
DECODED_SIDE = 512  # of these, the short one at most: scans of paintings would fill the memory


@dataclass(frozen=True)
class Pool:
    """What batches are drawn from: content pictures, style pictures, and names of built-in patterns."""

    content: tuple[PictureFile, ...]
    styles: tuple[PictureFile, ...]
    patterns: tuple[str, ...]


def is_held_out(name: str, fraction: float) -> bool:
    """Tell by the hash of its name whether a picture belongs to the held-out fraction."""
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
        self.pool = pool
        self.settings = settings
        self.side = side
        self.style_side = style_side or side

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


def decode_file(file: PictureFile) -> Image.Image:
    """Decode a picture; raise `InputError` where it cannot be used: without it, a result would be another one."""
    try:
        return decode_picture(file.read())
    except PictureError as error:
        raise InputError(f"The picture {file.root}/{file.name} {error}: remove it.") from None


@lru_cache(DECODED_PICTURES)
def _remembered(file: PictureFile) -> Image.Image:
    picture = decode_file(file)
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
