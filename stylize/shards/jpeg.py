"""JPEGs: plain ones decoded several times as fast as by Pillow, and those that lack only the mark of their end."""

import re
from functools import lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray

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
