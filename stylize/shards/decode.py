"""Decode pictures to upright 8-bit sRGB, with one documented policy for odd ones (docs/shard-format.md)."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, TiffTags, UnidentifiedImageError

from stylize.shards.colours import changes_colours, narrow_range, to_rgb, unknown_range, wrong_bits
from stylize.shards.picture_files import (
    HEIF,
    JXL,
    SideData,
    decode_plain_jpeg,
    jxl_size,
    orientation,
    plugin_for,
    read_side_data,
    with_end,
)

# Those that Pillow decodes itself: no EPS or WMF, which other programs would draw, and no films or containers.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "PCX", "PSD", "QOI", "SGI",
    "SUN", "DDS", "DIB", "XBM", "XPM", "ICNS", "CUR", "DCX", "MSP", "IM", "FITS", "SPIDER", "PIXAR", "BLP", "FTEX",
    "GBR", "FLI", "PCD", "IMT", "MCIDAS", "XVTHUMB",
)  # fmt: skip
# Files that are meant as pictures, decodable or not; others are looked into.
PICTURE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
        ".jpg", ".jpx", ".jxl", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".svg", ".tga", ".tif",
        ".tiff", ".webp",
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
_TURNED = (HEIF.format, JXL.format)  # whose pixels come upright, whatever EXIF says
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


def decode(data: bytes, bits: int | None = None) -> Decoded:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer.

    `bits` are those that pictures of 16 bits use, None for all.
    First frame of an animation; EXIF orientation applied; colour profiles converted to sRGB; transparency composited on
    white; 16-bit grey scaled to 8; pixels of unknown range refused. Side data that cannot be read are as if absent.
    A JPEG whose scan is corrupt but complete is decoded as far as Pillow can, as every other tool does.
    """
    if (pixels := decode_plain_jpeg(data, MAX_PIXELS)) is not None:
        _check_size(pixels.shape[1], pixels.shape[0])
        return Decoded(Image.fromarray(pixels), "JPEG", data)
    try:
        return _decode(data, bits)
    except PictureError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        if ended := with_end(data):
            return decode(ended, bits)
        side, reason = read_side_data(data), _reason(error)
        try:
            decoded = _decode(side.bare, bits, side) if side and side.bare != data else None
        except PictureError:
            raise
        except Exception:  # then the pixels are damaged, and the first error says how
            decoded = None
        if decoded is None:
            raise PictureError(reason) from None
        return replace(decoded, warnings=(f"side data are left out, since with them it {reason}",))


def is_picture(data: bytes) -> bool:
    """Return whether a file's content is in the format of a picture, damaged or not."""
    if plugin_for(data):
        return True
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


def _decode(data: bytes, bits: int | None, side: SideData | None = None) -> Decoded:
    """Decode bytes; `side` are those of the side data that were cut out of them before."""
    formats = _formats(data)
    try:
        with _watched() as caught:
            picture = Image.open(io.BytesIO(data), formats=formats)
            if picture.format == "TIFF":  # loading would read its directories too, but without collecting the warnings
                exif = picture.getexif()
                for tag in TiffTags.TAGS_V2_GROUPS:
                    if tag in exif:
                        exif.get_ifd(tag)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError("is larger than any real picture (decompression bomb)") from None
    _check_size(*picture.size)
    if reason := unknown_range(picture, data):
        raise PictureError(reason)
    picture.load()
    if bits is not None and (reason := wrong_bits(picture, data, bits)):
        raise PictureError(reason)
    turn = orientation(side.exif) if side else _orientation(picture, caught)
    if picture.format in _TURNED and not getattr(picture, "jpeg", False):  # but for a JPEG that a JPEG XL packs
        turn = 1
    profile = side.profile if side else picture.info.get("icc_profile")
    rgb = to_rgb(picture, data, profile, bits)
    if turn in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[turn])
    rgb.info.clear()  # a colour profile or a comment of the source would be written into its copies
    narrow = () if bits else narrow_range(picture, data)
    decoded = Decoded(rgb, None, data, tuple(sorted({*narrow, *(str(warning.message) for warning in caught)})))
    return _as_stored(decoded, picture) if turn == 1 and _is_plain(picture, profile) else decoded


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that a file may have; raise `PictureError` where it needs a plugin that is not installed."""
    plugin = plugin_for(data)
    if plugin is None:
        return FORMATS
    if not plugin.is_installed():
        raise PictureError(f"is {plugin.name}, which needs a package: pip install 'stylized-pairing[{plugin.extra}]'")
    if plugin is JXL and (size := jxl_size(data)):
        _check_size(*size)
    return (plugin.format,)


def _as_stored(decoded: Decoded, picture: Image.Image) -> Decoded:
    """Return a plain picture with bytes that any reader takes, without a profile."""
    if picture.format == "PNG" and b"IEND" not in decoded.data:  # which Pillow does without
        return decoded
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
    """Tell whether a PNG names other colours than sRGB without a profile, which is not applied and must not stay."""
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
