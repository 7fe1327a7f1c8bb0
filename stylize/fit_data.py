"""Training batches for `fit-decoder`: every step's crops are a function of (seed, step), so that a run can resume."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from stylize.errors import InputError
from stylize.patterns import PATTERN_NAMES, draw_pattern
from stylize.pictures import PictureError, PictureFile, decode_picture, list_pictures
from stylize.styles import ALL_PATTERNS

HOLD_OUT_FRACTION = 0.1  # of the photos, by hash
LOSSES = ("reconstruction", "style")
PATTERN_VARIATIONS = 12  # arrangements and palettes per built-in pattern
DECODED_PICTURES = 2000  # kept in memory: decoding a photo takes longer than cropping it


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


@dataclass(frozen=True)
class CropSettings:
    """How batches are drawn: crop side in pixels, images per batch, share of photos among the styles, and so on."""

    side: int
    batch_size: int
    photo_share: float
    pattern_share: float
    seed: int


@dataclass(frozen=True)
class Phase:
    """A part of a training: its loss, "reconstruction" or "style", the side of its crops in pixels, and its steps."""

    loss: str
    side: int
    steps: int


@dataclass(frozen=True)
class FitSettings:
    """A recipe: phases, loss weights, optimiser, and shares of styles; every batch is used for `pairings` updates."""

    phases: tuple[Phase, ...]
    batch_size: int = 8
    pairings: int = 2
    style_weight: float = 5.0
    identity_weight: float = 3.0
    learning_rate: float = 5e-4
    muon_rate: float = 1.5e-3
    averaging: float = 0.998
    photo_share: float = 0.4
    pattern_share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for phase in self.phases:
            if phase.loss not in LOSSES:
                raise InputError(f"There is no loss {phase.loss!r}: choose one of {', '.join(LOSSES)}.")
            if phase.side % 8 or phase.side < 16:
                raise InputError(f"A phase's crops have a side of {phase.side}: give a multiple of 8, at least 16.")
        if self.steps < 1 or min(self.batch_size, self.pairings) < 1:
            raise InputError("Steps, batch size and pairings of a decoder's training must be at least 1.")

    @property
    def steps(self) -> int:
        """Steps of all phases; a step takes one batch."""
        return sum(phase.steps for phase in self.phases)

    def crops(self, side: int) -> CropSettings:
        """Return how batches of crops of a side are drawn."""
        return CropSettings(side, self.batch_size, self.photo_share, self.pattern_share, self.seed)


PRESETS = {
    "shipped": FitSettings((Phase("reconstruction", 64, 400), Phase("style", 64, 2400), Phase("style", 96, 1200))),
    "quick": FitSettings((Phase("reconstruction", 64, 100), Phase("style", 64, 200))),
}


class CropBatches(Dataset[tuple[Tensor, Tensor]]):
    """Item i is step i's (content, style) crops, each uint8 (B, 3, side, side), the same in every run."""

    def __init__(self, pool: Pool, settings: CropSettings) -> None:
        self.pool = pool
        self.settings = settings

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.settings.seed, self.settings.side, step])
        batch = range(self.settings.batch_size)
        return _stack([self._content(rng) for _ in batch]), _stack([self._style(rng) for _ in batch])

    def _content(self, rng: np.random.Generator) -> Image.Image:
        file = self.pool.content[rng.integers(len(self.pool.content))]
        return random_crop(_decode(file), self.settings.side, rng)

    def _style(self, rng: np.random.Generator) -> Image.Image:
        draw = rng.random()
        if draw < self.settings.photo_share:
            return self._content(rng)
        draw = (draw - self.settings.photo_share) / (1 - self.settings.photo_share)
        if self.pool.patterns and (draw < self.settings.pattern_share or not self.pool.styles):
            name = self.pool.patterns[rng.integers(len(self.pool.patterns))]
            picture = _pattern(name, int(rng.integers(PATTERN_VARIATIONS)))
        else:
            picture = _decode(self.pool.styles[rng.integers(len(self.pool.styles))])
        return vary_colours(random_crop(picture, self.settings.side, rng), rng)


@cache
def _pattern(name: str, seed: int) -> Image.Image:
    """Draw a pattern once per process: drawing takes longer than a training step should wait."""
    return draw_pattern(name, 256, seed)


@lru_cache(DECODED_PICTURES)
def _decode(file: PictureFile) -> Image.Image:
    try:
        return decode_picture(file.read())
    except PictureError as error:
        raise InputError(f"The training picture {file.root}/{file.name} {error}: remove it.") from None


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


def vary_colours(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Permute the colour channels of half of the pictures: few paintings have all the palettes that users bring."""
    if rng.random() < 0.5:
        return picture
    channels = picture.split()
    return Image.merge("RGB", [channels[index] for index in rng.permutation(3)])


def _stack(pictures: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
