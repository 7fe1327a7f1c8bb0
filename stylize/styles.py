"""Style pictures: files, folders, zips or built-in procedural patterns, and which image gets which style."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stylize.errors import InputError
from stylize.patterns import PATTERN_NAMES, draw_pattern
from stylize.pictures import PictureError, PictureFile, decode_picture, list_pictures

STYLE_SIDE = 256  # short side at which style statistics are taken
ALL_PATTERNS = "patterns"


@dataclass(frozen=True)
class Style:
    """A style picture (RGB, short side 256) with its name and the SHA-256 of its file, or of a pattern's pixels."""

    name: str
    sha256: str
    picture: Image.Image


def load_styles(names: Sequence[str]) -> list[Style]:
    """Load styles by built-in name, `patterns` for all built-in ones, or path of a picture, folder or zip.

    Raises `InputError` for an unknown name or path, a broken picture, a repeated style, or no style at all.
    """
    styles = [style for name in names for style in _load(name)]
    if not styles:
        raise InputError(f"No style given: name a picture, a folder, or one of {', '.join(PATTERN_NAMES)}.")
    seen: set[str] = set()
    for style in styles:
        if style.sha256 in seen:
            raise InputError(f"The style {style.name} is given twice: name every style once.")
        seen.add(style.sha256)
    return styles


def _load(name: str) -> list[Style]:
    if name == ALL_PATTERNS:
        return [_pattern(pattern) for pattern in PATTERN_NAMES]
    if name in PATTERN_NAMES:
        return [_pattern(name)]
    path = Path(name)
    if not path.exists():
        known = ", ".join(PATTERN_NAMES)
        raise InputError(f"There is no style {name!r}: give the path of a picture or folder, or one of {known}.")
    return [_from_file(file) for file in list_pictures(path)]


def _pattern(name: str) -> Style:
    picture = draw_pattern(name, STYLE_SIDE)
    return Style(name, hashlib.sha256(picture.tobytes()).hexdigest(), picture)


def _from_file(file: PictureFile) -> Style:
    try:
        data = file.read()
        picture = decode_picture(data)
    except PictureError as error:
        raise InputError(f"The style picture {file.root / file.name} {error}: replace or remove it.") from None
    scale = STYLE_SIDE / min(picture.size)
    size = (max(STYLE_SIDE, round(picture.width * scale)), max(STYLE_SIDE, round(picture.height * scale)))
    return Style(file.name, hashlib.sha256(data).hexdigest(), picture.resize(size, Image.Resampling.BICUBIC))


def style_choice(seed: int, key: str, copies: int, styles: int) -> list[int]:
    """Choose the styles of an image's copies by hashing (seed, key, k), k = 0 … copies − 1: no generator, no state."""
    digests = (hashlib.sha256(f"{seed}:{key}:{k}".encode()).digest() for k in range(copies))
    return [int.from_bytes(digest[:8], "big") % styles for digest in digests]
