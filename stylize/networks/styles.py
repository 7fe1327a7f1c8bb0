"""Style pictures: files, folders, zips, built-in patterns or fitted styles."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from stylize.console import InputError
from stylize.files import UNREADABLE, file_sha256, why_unreadable, write_atomically
from stylize.networks import ALL_PATTERNS, MIN_SIDE, check_style_exists
from stylize.networks.adain import ENCODER_CHANNELS
from stylize.shards.decode import MAX_ASPECT_RATIO, PICTURE_SUFFIXES, PictureError, decode_picture
from stylize.sources.folder import PictureFile, list_pictures
from stylize.sources.patterns import PATTERN_NAMES, draw_pattern

STYLE_SIDE = 256  # short side at which style statistics are taken where nothing else is asked for
FITTED_SUFFIX = ".style.safetensors"
ORIGIN = "origin"  # the entry of a fitted style's metadata
STATISTICS_SHAPE = (1, ENCODER_CHANNELS[-1][1], 1, 1)
T = TypeVar("T")


@dataclass(frozen=True)
class FittedStatistics:
    """Mean and standard deviation at relu4_1, each (1, 512, 1, 1), that `stylize fit-styles` fitted to a decoder."""

    mean: Tensor
    std: Tensor
    decoder_sha256: str

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation on a device."""
        return self.mean.to(device), self.std.to(device)


@dataclass(frozen=True)
class Style:
    """A style picture (RGB, scaled) with its name, and statistics to use instead of the picture's own if any.

    `sha256` is of the picture's file, of a pattern's pixels, or of a fitted style's file.
    """

    name: str
    sha256: str
    picture: Image.Image
    fitted: FittedStatistics | None = None

    @property
    def array(self) -> NDArray[np.uint8]:
        """The picture as a batch of one, (1, H, W, 3)."""
        return np.asarray(self.picture)[None]


def load_styles(names: Sequence[str], decoder_sha256: str | None = None, side: int | None = None) -> list[Style]:
    """Load styles by built-in name, `patterns` for all built-in ones, or path of a picture, folder or zip.

    The path may also be of a fitted style or of a folder of them; `decoder_sha256` is the decoder's in use.  Pictures
    are scaled to a short side of `side` pixels, by default 256; a fitted style keeps its own.
    Raises `InputError` for an unknown name or path, a broken picture or file, a style that was fitted to another
    decoder, a repeated style, or no style at all.
    """
    for name in names:
        check_style_exists(name)
    styles = load_each([loader for name in names for loader in _loaders(name, side or STYLE_SIDE)], "style")
    if not styles:
        raise InputError(f"No style given: name a picture, a folder, or one of {', '.join(PATTERN_NAMES)}.")
    seen: set[str] = set()
    for style in styles:
        if style.sha256 in seen:
            raise InputError(f"The style {style.name} is given twice: name every style once.")
        seen.add(style.sha256)
    others = [style for style in styles if style.fitted and style.fitted.decoder_sha256 != decoder_sha256]
    if decoder_sha256 and others:
        theirs = ", ".join(f"{one.name} to decoder {one.fitted.decoder_sha256[:12]}" for one in others if one.fitted)
        raise InputError(
            f"Styles were fitted to another decoder than {decoder_sha256[:12]} ({theirs}): "
            f"fit them anew with `stylize fit-styles`, or give that --decoder."
        )
    return styles


def load_each(loaders: Sequence[tuple[str, Callable[[], T]]], kind: str) -> list[T]:
    """Call what loads each file, by path; raise one `InputError` that names every file that cannot be used."""
    loaded, problems = [], []
    for path, load in loaders:
        try:
            loaded.append(load())
        except PictureError as error:
            problems.append(f"{path} {error}")
    if len(problems) == 1:
        raise InputError(f"The {kind} {problems[0]}: replace or remove it.")
    if problems:
        raise InputError(f"{len(problems)} {kind}s cannot be used: {'; '.join(problems)}: replace or remove them.")
    return loaded


def _loaders(name: str, side: int) -> list[tuple[str, Callable[[], Style]]]:
    """Return the path, and what loads it, of every style that a name stands for."""
    if name == ALL_PATTERNS or name in PATTERN_NAMES:
        patterns = PATTERN_NAMES if name == ALL_PATTERNS else (name,)
        return [(pattern, partial(_pattern, pattern, side)) for pattern in patterns]
    path = Path(name)
    fitted = sorted(path.glob(f"[!.]*{FITTED_SUFFIX}")) if path.is_dir() else []
    if fitted and any(file.suffix.lower() in PICTURE_SUFFIXES for file in path.iterdir()):
        raise InputError(f"{path} holds pictures and fitted styles: give a folder of one kind, or single files.")
    if fitted or path.name.endswith(FITTED_SUFFIX):
        return [(str(file), partial(read_fitted, file)) for file in fitted or [path]]
    return [(str(file.root / file.name), partial(_from_file, file, side)) for file in list_pictures(path)]


def _pattern(name: str, side: int) -> Style:
    picture = draw_pattern(name, side)
    return Style(name, hashlib.sha256(picture.tobytes()).hexdigest(), picture)


def _from_file(file: PictureFile, side: int) -> Style:
    data = file.read()
    picture = decode_picture(data)
    scale = side / min(picture.size)
    size = (max(side, round(picture.width * scale)), max(side, round(picture.height * scale)))
    return Style(file.name, hashlib.sha256(data).hexdigest(), picture.resize(size, Image.Resampling.BICUBIC))


def write_fitted(path: Path, style: Style, fitted: FittedStatistics, recipe: Mapping[str, float]) -> None:
    """Write a style with fitted statistics atomically, as safetensors that hold its picture and name its decoder."""
    pixels = torch.frombuffer(bytearray(style.picture.tobytes()), dtype=torch.uint8)
    tensors = {
        "picture": pixels.view(style.picture.height, style.picture.width, 3),
        "mean": fitted.mean.cpu().contiguous(),
        "deviation": fitted.std.cpu().contiguous(),
    }
    hashes = {"style_sha256": style.sha256, "decoder_sha256": fitted.decoder_sha256}
    origin = {"name": style.name, **hashes, "recipe": dict(recipe)}
    # In one entry: safetensors writes several in any order, and the file's SHA-256 names the style.
    write_atomically(path, save(tensors, {ORIGIN: json.dumps(origin)}))


def read_fitted(path: Path) -> Style:
    """Read a file of `write_fitted`; raise `PictureError` where it is anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            origin = json.loads((file.metadata() or {})[ORIGIN])
            picture, mean, std = (file.get_tensor(name) for name in ("picture", "mean", "deviation"))
        _check_fitted(picture, mean, std)
        fitted = FittedStatistics(mean, std, str(origin["decoder_sha256"]))
        name = f"{origin['name']} (fitted)"
        name.encode()  # or a ValueError: a shard could not hold it
        return Style(name, file_sha256(path), Image.fromarray(picture.numpy()), fitted)
    except UNREADABLE as error:
        raise PictureError(f"is not a fitted style of `stylize fit-styles` ({why_unreadable(path, error)})") from None


def _check_fitted(picture: Tensor, mean: Tensor, std: Tensor) -> None:
    """Raise `ValueError` for tensors of other types, shapes or values than a fitted style has."""
    height, width, channels = picture.shape  # or a ValueError
    short, long = sorted((height, width))
    sides_fit = MIN_SIDE <= short <= STYLE_SIDE and long <= MAX_ASPECT_RATIO * STYLE_SIDE
    if picture.dtype != torch.uint8 or channels != 3 or not sides_fit:
        raise ValueError(f"a picture {tuple(picture.shape)} of {picture.dtype}")
    for statistic in (mean, std):
        if tuple(statistic.shape) != STATISTICS_SHAPE or statistic.dtype != torch.float32:
            raise ValueError(f"statistics {tuple(statistic.shape)} of {statistic.dtype}")
        if not torch.isfinite(statistic).all():
            raise ValueError("statistics that are not finite")
    if std.min() <= 0:
        raise ValueError("standard deviations that are not positive")
