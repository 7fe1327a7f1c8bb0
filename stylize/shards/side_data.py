"""A picture file's side data: EXIF, comments and colour profiles, read and cut out without decoding pixels."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

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
    bare = b"".join(segment for marker, segment in segments if not _is_jpeg_side_data(marker, segment))
    exif = [segment[4:] for marker, segment in segments if marker == 0xE1 and segment[4:10] == b"Exif\0\0"]
    parts = sorted(segment[16:] for marker, segment in segments if marker == 0xE2 and segment[4:16] == b"ICC_PROFILE\0")
    whole = all(part[:2] == bytes((number, len(parts))) for number, part in enumerate(parts, 1))
    profile = b"".join(part[2:] for part in parts) if whole else b""
    return SideData(b"\xff\xd8" + bare, exif[0] if exif else b"", profile)


def _is_jpeg_side_data(marker: int, segment: bytes) -> bool:
    """Return whether a segment says nothing about the pixels; whole JFIF and Adobe ones say how colours are coded."""
    colours = (segment[4:9] == b"JFIF\0" and len(segment) >= 18) or (segment[4:9] == b"Adobe" and len(segment) >= 16)
    return marker == _JPEG_COMMENT or (0xE0 <= marker <= 0xEF and not colours)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a PNG's chunks as (name, bytes) up to its end; the last may be cut."""
    position, name = len(_PNG), b""
    while name != b"IEND" and position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, data[position : position + 12 + length]
        position += 12 + length


def _from_png(chunks: list[tuple[bytes, bytes]]) -> SideData:
    bare = _PNG + b"".join(chunk for name, chunk in chunks if name[:1].isupper() or name == b"tRNS")
    found = {name: chunk[8:-4] for name, chunk in reversed(chunks) if _is_whole(name, chunk)}
    return SideData(bare, found.get(b"eXIf", b""), _png_profile(found.get(b"iCCP", b"")))


def _is_whole(name: bytes, chunk: bytes) -> bool:
    return name in (b"eXIf", b"iCCP") and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _png_profile(payload: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(payload.partition(b"\0")[2][1:], _MAX_PROFILE)
    except zlib.error:
        return b""


def _bare_tiff(data: bytes) -> bytes:
    """Return a TIFF whose first directory has only the tags that describe pixels, and no following one."""
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    entries = [data[start : start + 12] for start in range(offset + 2, offset + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_TAGS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:offset] + directory + data[offset + len(directory) :]
