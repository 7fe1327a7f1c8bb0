"""Decode pictures to upright 8-bit sRGB, with one documented policy for odd ones (docs/shard-format.md)."""

import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffTags, UnidentifiedImageError

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of profiles, and the mode of the pixels that they describe
_NO_EFFECT = 2  # grey levels of 255: an sRGB profile of another maker is off by that much


def changes_colours(profile: bytes, mode: str) -> bool:
    """Return whether a profile turns pixels of a mode (RGB, L or CMYK) into others.

    Not so where it cannot be read, describes other pixels, or is sRGB itself, within 2 of 255 levels.
    """
    return _transform(profile, mode) is not None


def to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture as RGB in sRGB, by its profile where that changes its colours (perceptual intent)."""
    transform = _transform(profile, colours.mode) if profile else None
    if transform is not None:
        return transform.apply(colours)
    return colours.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        if _SPACES.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    return None if _has_no_effect(transform, mode) else transform


def _has_no_effect(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Compare a lattice of colours before and after."""
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3) if mode == "RGB" else levels[None]
    before = Image.fromarray(lattice)
    after = np.asarray(transform.apply(before), dtype=np.int16)
    return int(np.abs(after - np.asarray(before.convert("RGB"))).max()) <= _NO_EFFECT


_KNOWN_RANGE = ("JPEG2000", "PNG", "PPM", "TIFF")  # formats whose 16-bit pixels go from 0 to a maximum that they name
_TIFF_SUBFILE, _TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_SAMPLE_FORMAT = (
    *(254, 258, 259, 262, 284, 339),
)
_SIGNED = 2
_JPEG2000_START, _JPEG2000_SIGN = b"\xff\x4f\xff\x51", 42  # of a codestream, and from there the byte of the sign
_PNG_DEPTH = 24  # the byte of a PNG that says how many bits a sample has


def unknown_range(picture: Image.Image, data: bytes) -> str | None:
    """Return why the pixels of an opened picture have no known meaning, None where they have one."""
    tags = getattr(picture, "tag_v2", {})
    if picture.mode == "F":
        return "has floating-point pixels, whose range is not known"
    if picture.mode == "I" and picture.format != "PPM":
        return "has 32-bit or signed integer pixels, whose range is not known"
    if _SIGNED in np.atleast_1d(tags.get(_TIFF_SAMPLE_FORMAT, 1)) or _is_signed_jpeg2000(picture, data):
        return "has signed integer pixels, whose range is not known"
    if picture.mode.startswith("I") and picture.format not in _KNOWN_RANGE:
        return f"has 16-bit pixels, whose range {picture.format} does not tell"
    if tags.get(_TIFF_SUBFILE, 0) == 1:
        return "is the small preview of a camera's raw picture, which cannot be read"
    return _unreadable_planes(picture.mode, tags)


def _is_signed_jpeg2000(picture: Image.Image, data: bytes) -> bool:
    start = data.find(_JPEG2000_START)
    return picture.format == "JPEG2000" and start >= 0 and bool(data[start + _JPEG2000_SIGN] & 0x80)


def _unreadable_planes(mode: str, tags: Mapping[int, Any]) -> str | None:
    """Return why a TIFF that stores its channels one after another is refused: Pillow reads two kinds wrongly."""
    plain_16_bit = 16 in np.atleast_1d(tags.get(_TIFF_BITS, 1)) and tags.get(_TIFF_COMPRESSION, 1) == 1
    if tags.get(_TIFF_PLANES, 1) == 2 and (plain_16_bit or mode == "LA"):
        return "stores its channels apart, which cannot be read for this kind of TIFF: store them together"
    return None


def to_rgb(picture: Image.Image, data: bytes, profile: bytes | None) -> Image.Image:
    """Return a loaded picture of known range as RGB in sRGB; transparency is composited on white afterwards."""
    if picture.mode == "RGB" and not picture.has_transparency_data and not profile:
        return picture.convert("RGB")
    colours, opacity = _split_opacity(picture, data)
    rgb = to_srgb(colours, profile)
    if opacity is None:
        return rgb
    rgb.putalpha(opacity)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (255, 255, 255, 255)), rgb).convert("RGB")


def _split_opacity(picture: Image.Image, data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours as L, RGB, CMYK or LAB, and the opacity as L, None where all is opaque."""
    key = picture.info.get("transparency")
    if picture.mode in ("1", "L", "RGB") or picture.mode.startswith("I"):
        opacity = None if key is None else Image.fromarray(_differs_from(key, picture, data))
        return _opaque(picture), opacity
    if picture.mode == "La":
        picture = picture.convert("LA")
    elif picture.has_transparency_data and picture.mode != "LA":
        picture = picture.convert("RGBA")
    opacity = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    return _opaque(picture), opacity


def _opaque(picture: Image.Image) -> Image.Image:
    """Return a picture's colours, without opacity, in a mode that profiles describe."""
    if picture.mode.startswith("I"):
        return Image.fromarray(_grey_levels(picture))
    plain = picture.copy()
    plain.info.clear()  # Pillow would carry a transparent colour over
    if plain.mode in ("1", "LA"):
        return plain.convert("L")
    return plain if plain.mode in ("L", "RGB", "CMYK", "LAB") else plain.convert("RGB")


def _grey_levels(picture: Image.Image) -> NDArray[np.uint8]:
    """Scale 16-bit grey (H, W) to 8 bits; a plain conversion would clip it to white."""
    tags = getattr(picture, "tag_v2", {})
    bits = int(np.atleast_1d(tags.get(_TIFF_BITS, 16))[0])  # 12 bits come as they are
    grey = np.clip(np.asarray(picture, dtype=np.float64) / ((2**bits - 1) / 255.0), 0, 255).round().astype(np.uint8)
    white_is_zero = tags.get(_TIFF_PHOTOMETRIC, 1) == 0  # which Pillow heeds up to 8 bits only
    return np.asarray(255 - grey if white_is_zero else grey)


def _differs_from(key: int | tuple[int, ...], picture: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Return the opacity (H, W): 0 where a pixel, at its full depth, has the transparent colour, else 255."""
    pixels = np.asarray(picture, dtype=np.int64) * (255 if picture.mode == "1" else 1)
    if picture.format == "PNG" and picture.mode != "1":  # for that Pillow has scaled the key already
        depth = data[_PNG_DEPTH]
        if depth < 8:
            pixels = pixels // (255 // (2**depth - 1))
        elif depth == 16 and picture.mode == "RGB":
            pixels = 256 * pixels + _low_bytes(data)
        key = np.asarray(key) & (2**depth - 1)
    same = pixels == key
    return np.where(same.all(-1) if same.ndim == 3 else same, 0, 255).astype(np.uint8)


def _low_bytes(data: bytes) -> NDArray[np.int64]:
    """Return the lower bytes of a 16-bit RGB PNG (H, W, 3), of which Pillow takes the upper ones."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        picture.tile = [tile._replace(args="RGB;16L") for tile in picture.tile]  # as if the lower byte came last
        return np.asarray(picture, dtype=np.int64)


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
            return _from_jpeg(list(_jpeg_segments(data)))
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


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
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


_SOI, _SCAN, _START_OF_SCAN, _JFIF = b"\xff\xd8", b"\xff\xda", 0xDA, 0xE0
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


# Those that Pillow decodes itself: no EPS or WMF, which other programs would draw, and no films or containers.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "PCX", "PSD", "QOI", "SGI",
    "SUN", "DDS", "DIB", "XBM", "XPM", "ICNS", "CUR", "DCX", "MSP", "IM", "FITS", "SPIDER", "PIXAR", "BLP", "FTEX",
    "GBR", "FLI", "PCD", "IMT", "MCIDAS", "XVTHUMB",
)  # fmt: skip
# Files that are meant as pictures, decodable or not; others are looked into.
PICTURE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
        ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".svg", ".tga", ".tif", ".tiff",
        ".webp",
    }
)  # fmt: skip


MAX_PIXELS = 64_000_000
MAX_ASPECT_RATIO = 16
_FILTERS = threading.Lock()  # warning filters are the process's, and pictures are decoded in threads
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
_SRGB_GAMMA, _SRGB_PRIMARIES = 0.45455, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its lines do not name the picture; what is recorded does


class PictureError(Exception):
    """Why a file cannot be used as a picture; the caller records it and goes on."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright 8-bit picture in sRGB, and bytes that decode to it by any reader.

    `plain_format` is their format as Pillow names it, None where the source's pixels had to change. `data` are the
    source's own or, where these hold a colour profile or what readers stumble over, those without side data.
    `warnings` are Pillow's.
    """

    picture: Image.Image
    plain_format: str | None
    data: bytes
    warnings: tuple[str, ...] = ()


def decode_picture(data: bytes) -> Image.Image:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer."""
    return decode(data).picture


def decode(data: bytes) -> Decoded:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer.

    First frame of an animation; EXIF orientation applied; colour profiles converted to sRGB; transparency composited on
    white; 16-bit grey scaled to 8; pixels of unknown range refused. Side data that cannot be read are as if absent.
    A JPEG whose scan is corrupt but complete is decoded as far as Pillow can, as every other tool does.
    """
    if (pixels := decode_plain_jpeg(data, MAX_PIXELS)) is not None:
        _check_size(pixels.shape[1], pixels.shape[0])
        return Decoded(Image.fromarray(pixels), "JPEG", data)
    try:
        return _decode(data)
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        if decoded := _decode_without_side_data(data):
            return replace(decoded, warnings=(f"side data are left out, since with them it {_reason(error)}",))
        raise PictureError(_reason(error)) from None


def is_picture(data: bytes) -> bool:
    """Return whether a file's content is in the format of a picture, damaged or not."""
    try:
        with _watched():
            Image.open(io.BytesIO(data), formats=FORMATS).close()
    except UnidentifiedImageError:
        return False
    except Exception:  # a picture, if a strange one: decoding will say what is wrong
        return True
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its message holds a memory address, different in every run
        return "is not a picture in a known format"
    return f"cannot be decoded: {error}"


@contextmanager
def _watched() -> Iterator[list[warnings.WarningMessage]]:
    """Collect Pillow's warnings, which do not name the picture; that of a decompression bomb is an error."""
    with _FILTERS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield caught


def _decode(data: bytes, side: SideData | None = None) -> Decoded:
    """Decode bytes; `side` are those of the side data that were cut out of them before."""
    try:
        with _watched() as caught:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.format == "TIFF":
                _read_directories(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError("is larger than any real picture (decompression bomb)") from None
    _check_size(*picture.size)
    if reason := unknown_range(picture, data):
        raise PictureError(reason)
    picture.load()
    turn = orientation(side.exif) if side else _orientation(picture, caught)
    profile = side.profile if side else picture.info.get("icc_profile")
    rgb = to_rgb(picture, data, profile)
    if turn in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[turn])
    rgb.info.clear()  # a colour profile or a comment of the source would be written into its copies
    decoded = Decoded(rgb, None, data, tuple(sorted({str(warning.message) for warning in caught})))
    return _as_stored(decoded, picture) if turn == 1 and _is_plain(picture, profile) else decoded


def _read_directories(picture: Image.Image) -> None:
    """Read a TIFF's directories beside its pixels, which loading would do too, where nobody collects the warnings."""
    exif = picture.getexif()
    for tag in TiffTags.TAGS_V2_GROUPS:
        if tag in exif:
            exif.get_ifd(tag)


def _decode_without_side_data(data: bytes) -> Decoded | None:
    side = read_side_data(data)
    if side is None or side.bare == data:
        return None
    try:
        return _decode(side.bare, side)
    except PictureError:
        raise
    except Exception:  # then the pixels are damaged, and the first error says how
        return None


def _as_stored(decoded: Decoded, picture: Image.Image) -> Decoded:
    """Return a plain picture with bytes that any reader takes, without a profile."""
    if not ("icc_profile" in picture.info or decoded.warnings or _has_other_colours(picture, decoded.data)):
        return replace(decoded, plain_format=picture.format)
    side = read_side_data(decoded.data)
    return replace(decoded, plain_format=picture.format, data=side.bare) if side else decoded


def _orientation(picture: Image.Image, caught: list[warnings.WarningMessage]) -> int:
    """Return a loaded picture's orientation, 1 to 8, and add the warnings on the way to those that were caught."""
    if picture.format != "TIFF" and _EXIF_KEYS.isdisjoint(picture.info):
        return 1
    try:
        with _watched() as more:
            found = picture.getexif().get(0x0112, 1)
        caught += more
    except Exception as error:  # Pillow raises whatever it likes on damaged blocks
        caught.append(warnings.WarningMessage(f"EXIF cannot be read: {error}", UserWarning, "", 0))
        found = orientation(picture.info.get("exif", b""))
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _is_plain(picture: Image.Image, profile: bytes | None) -> bool:
    """Tell whether a picture is opaque sRGB and a single frame."""
    opaque = picture.mode == "RGB" and not picture.has_transparency_data
    # Pages of a TIFF are read for their number, and some may be damaged; no codec keeps a TIFF.
    single = picture.format != "TIFF" and getattr(picture, "n_frames", 1) == 1
    return opaque and single and not (profile and changes_colours(profile, "RGB"))


def _has_other_colours(picture: Image.Image, data: bytes) -> bool:
    """Tell whether a PNG names other colours than sRGB without a profile, which is not heeded and must not stay."""
    if picture.format != "PNG" or "srgb" in picture.info:
        return False
    gamma = picture.info.get("gamma", _SRGB_GAMMA)
    primaries = picture.info.get("chromaticity", _SRGB_PRIMARIES)
    usual = np.allclose((gamma, *primaries), (_SRGB_GAMMA, *_SRGB_PRIMARIES), rtol=0, atol=0.005)
    return not usual or b"cICP" in data[: data.find(b"IDAT")]


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"has {width}×{height} pixels, more than the limit of {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PictureError(f"has the aspect ratio of {width}×{height}, beyond the limit of {MAX_ASPECT_RATIO}")
