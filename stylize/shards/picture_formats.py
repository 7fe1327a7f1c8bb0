"""Picture files before decoding: formats that plugins read, what a file holds beside its pixels, and plain JPEGs."""

import importlib
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

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

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_JXL_BITS[take(2)]) + 1

    small = take(1)
    height = side()
    ratio = take(3)
    if ratio:
        over, under = _JXL_RATIOS[ratio]
        return height * over // under, height
    return side(), height


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


_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SCAN, _JPEG_COMMENT = 0xDA, 0xFE
_MAX_PROFILE = 32_000_000  # bytes
_ORIENTATION = 0x0112
# Tags of a TIFF without which its pixels mean something else (TIFF 6.0, and tag 339 of its technical notes).
_TIFF_TAGS = frozenset({254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325,
                        332, 338, 339, 347, 529, 530, 531, 532})  # fmt: skip


@dataclass(frozen=True)
class SideData:
    """A file without its side data, and of these the EXIF block (TIFF) and the colour profile, b"" for none."""

    bare: bytes
    exif: bytes = b""
    profile: bytes = b""


def read_side_data(data: bytes) -> SideData | None:
    """Return a JPEG, PNG or TIFF without side data, and these; None for other formats and damaged structures."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _from_jpeg(list(jpeg_segments(data)))
        if data.startswith(_PNG):
            return _from_png(list(_png_chunks(data)))
        if data[:4] in (b"II*\0", b"MM\0*"):
            return SideData(_bare_tiff(data))
    except (struct.error, IndexError, ValueError):
        pass
    return None


def orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, that an EXIF block names; 1 where it is damaged or names none."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, offset)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, offset + 2 + 12 * entry)
            if (tag, kind) == (_ORIENTATION, 3):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield a JPEG's segments before its scan as (marker, bytes), then the scan with all that follows."""
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ValueError("no marker")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _JPEG_SCAN:
            yield marker, data[position:]
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        yield marker, data[position : position + 2 + length]
        position += 2 + max(length, 2)


def _from_jpeg(segments: list[tuple[int, bytes]]) -> SideData:
    bare = []
    for marker, segment in segments:  # whole JFIF and Adobe ones say how colours are coded
        jfif = segment[4:9] == b"JFIF\0" and len(segment) >= 18
        adobe = segment[4:9] == b"Adobe" and len(segment) >= 16
        if jfif or adobe or not (marker == _JPEG_COMMENT or 0xE0 <= marker <= 0xEF):
            bare.append(segment)
    exif = [segment[4:] for marker, segment in segments if marker == 0xE1 and segment[4:10] == b"Exif\0\0"]
    parts = sorted(segment[16:] for marker, segment in segments if marker == 0xE2 and segment[4:16] == b"ICC_PROFILE\0")
    whole = all(part[:2] == bytes((number, len(parts))) for number, part in enumerate(parts, 1))
    profile = b"".join(part[2:] for part in parts) if whole else b""
    return SideData(b"\xff\xd8" + b"".join(bare), exif[0] if exif else b"", profile)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a PNG's chunks as (name, bytes) up to its end; the last may be cut."""
    position, name = len(_PNG), b""
    while name != b"IEND" and position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, data[position : position + 12 + length]
        position += 12 + length


def _from_png(chunks: list[tuple[bytes, bytes]]) -> SideData:
    bare = _PNG + b"".join(chunk for name, chunk in chunks if name[:1].isupper() or name == b"tRNS")
    whole = {
        name: chunk[8:-4]
        for name, chunk in reversed(chunks)
        if name in (b"eXIf", b"iCCP") and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
    }
    try:
        packed = whole.get(b"iCCP", b"").partition(b"\0")[2][1:]
        profile = zlib.decompressobj().decompress(packed, _MAX_PROFILE)
    except zlib.error:
        profile = b""
    return SideData(bare, whole.get(b"eXIf", b""), profile)


def _bare_tiff(data: bytes) -> bytes:
    """Return a TIFF whose first directory has only the tags that describe pixels, and no following one."""
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    entries = [data[start : start + 12] for start in range(offset + 2, offset + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_TAGS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:offset] + directory + data[offset + len(directory) :]


_SOI, _EOI, _SCAN, _START_OF_SCAN, _JFIF = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", 0xDA, 0xE0
_MARKER = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")  # that ends a scan: no escaped byte and no restart
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all with Huffman's code
_TABLES = (0xC4, 0xDB, 0xDD)  # Huffman tables, quantisation tables, restart interval
_FRAME_BYTES = 17  # of a frame with three components, its length's two included


def decode_plain_jpeg(data: bytes, limit: int, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8] | None:
    """Return the pixels (H, W, 3), as Pillow's, of a JPEG of JFIF with three components of 8 bits, no side data.

    They are written to `into` where it is given.  None for any other file, a size other than that of `into`, more than
    `limit` pixels, and whatever libjpeg-turbo warns of: `decode` has rules for them.
    """
    size = _plain_size(data[: data.find(_SCAN) + 4])
    if size is None or not 0 < size[0] * size[1] <= limit or (into is not None and into.shape[:2] != size):
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", buffer=into)
    except ValueError:
        return None
    return pixels


@lru_cache(maxsize=256)  # an encoder gives all pictures of one size the same segments
def _plain_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width, from the segments before the scan; None where one of them is not of a plain JPEG.

    `data` ends with the first marker of a scan and its length; where these lie inside a segment, there is no size.
    """
    position, size, jfif = 2, None, False
    if not data.startswith(_SOI):
        return None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : position + 2 + length]
        if marker == _START_OF_SCAN:
            return size if jfif else None
        if marker in _FRAMES:
            if length != _FRAME_BYTES or body[0] != 8 or size is not None:
                return None
            size = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
        elif marker == _JFIF and not jfif and length == 16 and body.startswith(b"JFIF\0"):
            jfif = True
        elif marker not in _TABLES:
            return None
        position += 2 + length
    return None


def with_end(data: bytes) -> bytes | None:
    """Return a JPEG that lacks nothing but the mark of its end, or half of that, with it; None for any other file."""
    if data.endswith(_EOI) or not data.startswith(_SOI):
        return None
    ended = data.removesuffix(b"\xff") + _EOI
    try:
        space = simplejpeg.decode_jpeg_header(ended)[2]
        simplejpeg.decode_jpeg(ended, "CMYK" if space in ("CMYK", "YCCK") else "RGB")  # warns where data are missing
        return ended if _has_all_scans(ended) else None
    except (ValueError, IndexError, KeyError):
        return None


def _has_all_scans(data: bytes) -> bool:
    """Return whether the scans give every coefficient of every component to its last bit; raise where it is damaged."""
    missing: dict[int, set[int]] = {}
    position = 2
    while data[position : position + 2] != _EOI:
        marker, end = data[position + 1], position + 2 + int.from_bytes(data[position + 2 : position + 4])
        body, position = data[position + 4 : end], end
        if marker in _FRAMES:
            missing = {body[6 + 3 * component]: set(range(64)) for component in range(body[5])}
        elif marker == _START_OF_SCAN:
            parts = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            for part in parts if bits & 15 == 0 else ():
                missing[part] -= set(range(first, last + 1))
            following = _MARKER.search(data, position)
            position = following.start() if following else len(data)
    return bool(missing) and not any(missing.values())
