"""Formats that Pillow reads with a plugin: HEIC, which iPhones write (extra `heif`), and JPEG XL (extra `jxl`)."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_JXL_CODESTREAM, _JXL_CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_JXL_BITS = (9, 13, 18, 30)  # of a side, by its selector
_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width to height


@dataclass(frozen=True)
class Plugin:
    """A format as Pillow names it and as people do, the extra that reads it, and its module."""

    format: str
    name: str
    extra: str
    module: str

    @cache  # noqa: B019 - there are two
    def is_installed(self) -> bool:
        """Return whether the format can be read, and let Pillow read it."""
        try:
            module: Any = importlib.import_module(self.module)
        except ImportError:
            return False
        getattr(module, "register_heif_opener", lambda: None)()  # the other registers itself
        return True


HEIF = Plugin("HEIF", "HEIC", "heif", "pillow_heif")
JXL = Plugin("JXL", "JPEG XL", "jxl", "pillow_jxl")


def plugin_for(data: bytes) -> Plugin | None:
    """Return the plugin that reads a file, None where Pillow does itself or nothing does."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[12:64]:
        return HEIF
    return JXL if data.startswith((_JXL_CODESTREAM, _JXL_CONTAINER)) else None


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Return a JPEG XL's width and height by its header, None for a damaged one; its plugin decodes before it tells."""
    start = _codestream(data)
    if start is None or data[start : start + 2] != _JXL_CODESTREAM:
        return None
    bits, position = int.from_bytes(data[start + 2 : start + 14], "little"), 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return bits >> (position - count) & ((1 << count) - 1)

    small = take(1)
    height = _side(take, small)
    ratio = take(3)
    if ratio:
        over, under = _JXL_RATIOS[ratio]
        return height * over // under, height
    return _side(take, small), height


def _side(take: Callable[[int], int], small: int) -> int:
    return 8 * (take(5) + 1) if small else take(_JXL_BITS[take(2)]) + 1


def _codestream(data: bytes) -> int | None:
    """Return where a JPEG XL's codestream begins, in a container the first part of it."""
    if data.startswith(_JXL_CODESTREAM):
        return 0
    position = 0
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        if kind in (b"jxlc", b"jxlp"):
            return position + 8 + (8 if length == 1 else 0) + (4 if kind == b"jxlp" else 0)
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16])
        if length < 8:
            return None
        position += length
    return None
