"""Decode pictures to upright 8-bit sRGB, with one documented policy for odd ones (docs/shard-format.md)."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffTags, UnidentifiedImageError

from stylize.shards.picture_formats import (
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
        # Pillow's own message for foreign files holds a memory address, different in every run.
        foreign, side = isinstance(error, UnidentifiedImageError), read_side_data(data)
        reason = "is not a picture in a known format" if foreign else f"cannot be decoded: {error}"
        try:
            decoded = _decode(side.bare, bits, side) if side and side.bare != data else None
        except PictureError:
            raise
        except Exception:  # then the pixels are damaged, and the first error says how
            decoded = None
        if decoded is None:
            raise PictureError(reason) from None
        return replace(decoded, warnings=(f"side data are left out, since with them it {reason}",))


def encode_png(picture: Image.Image) -> bytes:
    """Encode without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def is_picture(data: bytes) -> bool:
    """Return whether a file's content is in the format of a picture, damaged or not."""
    if plugin_for(data):
        return True
    try:
        with _watched():
            Image.open(io.BytesIO(data), formats=FORMATS).close()
    except Exception as error:  # a strange picture is one too: decoding will say what is wrong
        return not isinstance(error, UnidentifiedImageError)
    return True


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
    if reason := _unknown_range(picture, data):
        raise PictureError(reason)
    picture.load()
    if bits is not None and (reason := _wrong_bits(picture, data, bits)):
        raise PictureError(reason)
    turn = orientation(side.exif) if side else _orientation(picture, caught)
    if picture.format in _TURNED and not getattr(picture, "jpeg", False):  # but for a JPEG that a JPEG XL packs
        turn = 1
    profile = side.profile if side else picture.info.get("icc_profile")
    rgb = _to_rgb(picture, data, profile, bits)
    if turn in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[turn])
    rgb.info.clear()  # a colour profile or a comment of the source would be written into its copies
    narrow = () if bits else _narrow_range(picture, data)
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
    return opaque and single and not (profile and _transform(profile, "RGB") is not None)


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


_KNOWN_RANGE = ("JPEG2000", "PNG", "PPM", "TIFF")  # formats whose 16-bit pixels go from 0 to a maximum that they name
_TIFF_SUBFILE, _TIFF_BITS, _TIFF_COMPRESSION = 254, 258, 259
_TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_SAMPLE_FORMAT = 262, 284, 339
_SIGNED = 2
_JPEG2000_START, _JPEG2000_SIGN = b"\xff\x4f\xff\x51", 42  # of a codestream, and from there the byte of the sign
_PNG_DEPTH = 24  # the byte of a PNG that says how many bits a sample has


def _unknown_range(picture: Image.Image, data: bytes) -> str | None:
    """Return why the pixels of an opened picture have no known meaning, None where they have one."""
    tags = getattr(picture, "tag_v2", {})
    if picture.mode == "F":
        return "has floating-point pixels, whose range is not known"
    if picture.mode == "I" and picture.format != "PPM":
        return "has 32-bit or signed integer pixels, whose range is not known"
    start = data.find(_JPEG2000_START) if picture.format == "JPEG2000" else -1
    signed_jpeg2000 = start >= 0 and data[start + _JPEG2000_SIGN] & 0x80
    if signed_jpeg2000 or _SIGNED in np.atleast_1d(tags.get(_TIFF_SAMPLE_FORMAT, 1)):
        return "has signed integer pixels, whose range is not known"
    if picture.mode.startswith("I") and picture.format not in _KNOWN_RANGE:
        return f"has 16-bit pixels, whose range {picture.format} does not tell"
    if tags.get(_TIFF_SUBFILE, 0) == 1:
        return "is the small preview of a camera's raw picture, which cannot be read"
    plain_16_bit = 16 in np.atleast_1d(tags.get(_TIFF_BITS, 1)) and tags.get(_TIFF_COMPRESSION, 1) == 1
    if tags.get(_TIFF_PLANES, 1) == 2 and (plain_16_bit or picture.mode == "LA"):  # which Pillow reads wrongly
        return "stores its channels apart, which cannot be read for this kind of TIFF: store them together"
    return None


def _narrow_range(picture: Image.Image, data: bytes) -> Iterator[str]:
    """Yield a warning where no value of a loaded 16-bit picture is beyond a quarter of its range."""
    if not _has_16_bits(picture, data):
        return
    highest = _highest(picture, data)
    if 0 < highest < 2**14:
        bits = max(8, highest.bit_length() + highest.bit_length() % 2)
        yield f"has no 16-bit value beyond {highest}, so it is nearly black: if it uses {bits} bits, give --bits {bits}"


def _wrong_bits(picture: Image.Image, data: bytes, bits: int) -> str | None:
    """Return why a loaded picture of 16 bits cannot be scaled from so many, None where it can or has other depths."""
    if not _has_16_bits(picture, data):
        return None
    if not (picture.mode.startswith("I") or _has_low_bytes(picture)):
        return "has 16-bit colours that --bits cannot scale: store them as PNG without transparency"
    highest = _highest(picture, data)
    return f"has the value {highest}, which --bits {bits} does not hold: give more" if highest >= 2**bits else None


def _has_16_bits(picture: Image.Image, data: bytes) -> bool:
    """Return whether a picture has 16 bits a value, in a format that does not tell how many it uses."""
    if picture.format == "TIFF":
        return bool(np.atleast_1d(getattr(picture, "tag_v2", {}).get(_TIFF_BITS, 1))[0] == 16)
    if picture.format == "PNG":
        return data[_PNG_DEPTH] == 16
    return picture.format == "JPEG2000" and picture.mode.startswith("I")


def _has_low_bytes(picture: Image.Image) -> bool:
    """Return whether the lower bytes of 16-bit colours can be had, of which Pillow takes the upper ones."""
    return picture.mode == "RGB" and picture.format == "PNG" and not picture.has_transparency_data


def _highest(picture: Image.Image, data: bytes) -> int:
    """Return the highest value of a 16-bit picture, by the upper bytes where there are no others."""
    if picture.mode.startswith("I"):
        return int(np.asarray(picture).max())
    if _has_low_bytes(picture):
        return int(_full_depth(picture, data).max())
    colours = picture.convert("RGB") if picture.mode != "LA" else picture.getchannel("L")
    return 257 * int(np.asarray(colours).max())


def _to_rgb(picture: Image.Image, data: bytes, profile: bytes | None, bits: int | None = None) -> Image.Image:
    """Return a loaded picture of known range as RGB in sRGB; transparency is composited on white afterwards.

    `bits` are those that 16-bit pictures use, None for all.
    """
    bits = bits if _has_16_bits(picture, data) else None
    if bits is not None and picture.mode == "RGB":
        return _to_srgb(Image.fromarray(_scaled(_full_depth(picture, data), bits)), profile)
    if picture.mode == "RGB" and not picture.has_transparency_data and not profile:
        return picture.convert("RGB")
    opacity, key = None, picture.info.get("transparency")
    if picture.mode in ("1", "L", "RGB") or picture.mode.startswith("I"):
        opacity = None if key is None else Image.fromarray(_differs_from(key, picture, data))
    else:
        if picture.mode == "La":
            picture = picture.convert("LA")
        elif picture.has_transparency_data and picture.mode != "LA":
            picture = picture.convert("RGBA")
        opacity = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    rgb = _to_srgb(_opaque(picture, bits), profile)
    if opacity is None:
        return rgb
    rgb.putalpha(opacity)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, (255, 255, 255, 255)), rgb).convert("RGB")


def _opaque(picture: Image.Image, bits: int | None) -> Image.Image:
    """Return a picture's colours, without opacity, in a mode that profiles describe."""
    if picture.mode.startswith("I"):  # a plain conversion would clip it to white
        tags = getattr(picture, "tag_v2", {})
        depth = int(np.atleast_1d(tags.get(_TIFF_BITS, 16))[0])  # 12 bits come as they are
        grey = _scaled(np.asarray(picture), bits or depth)
        white_is_zero = tags.get(_TIFF_PHOTOMETRIC, 1) == 0  # which Pillow applies up to 8 bits only
        return Image.fromarray(255 - grey if white_is_zero else grey)
    plain = picture.copy()
    plain.info.clear()  # Pillow would carry a transparent colour over
    if plain.mode in ("1", "LA"):
        return plain.convert("L")
    return plain if plain.mode in ("L", "RGB", "CMYK", "LAB") else plain.convert("RGB")


def _scaled(values: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Return values of so many bits as values of 8."""
    return np.asarray(np.clip(values.astype(np.float64) / ((2**bits - 1) / 255.0), 0, 255).round(), np.uint8)


def _differs_from(key: int | tuple[int, ...], picture: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """Return the opacity (H, W): 0 where a pixel, at its full depth, has the transparent colour, else 255."""
    pixels = np.asarray(picture, dtype=np.int64) * (255 if picture.mode == "1" else 1)
    if picture.format == "PNG" and picture.mode != "1":  # for that Pillow has scaled the key already
        depth = data[_PNG_DEPTH]
        if depth < 8:
            pixels = pixels // (255 // (2**depth - 1))
        elif depth == 16 and picture.mode == "RGB":
            pixels = _full_depth(picture, data)
        key = np.asarray(key) & (2**depth - 1)
    same = pixels == key
    return np.where(same.all(-1) if same.ndim == 3 else same, 0, 255).astype(np.uint8)


def _full_depth(picture: Image.Image, data: bytes) -> NDArray[np.int64]:
    """Return the values of a 16-bit RGB PNG (H, W, 3), of which Pillow takes the upper bytes."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as lower:
        lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]  # as if the lower byte came last
        return 256 * np.asarray(picture, np.int64) + np.asarray(lower, np.int64)


_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of profiles, and the mode of the pixels that they describe
_NO_EFFECT = 2  # grey levels of 255: an sRGB profile of another maker is off by that much


def _to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture as RGB in sRGB, by its profile where that changes its colours (perceptual intent)."""
    transform = _transform(profile, colours.mode) if profile else None
    return colours.convert("RGB") if transform is None else transform.apply(colours)


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what turns pixels of a mode (RGB, L or CMYK) from a profile's colours into sRGB; None where nothing would.

    So where it cannot be read, describes other pixels, or is sRGB itself, within 2 of 255 levels.
    """
    try:
        opened = ImageCms.getOpenProfile(io.BytesIO(profile))
        if _SPACES.get(opened.profile.xcolor_space.strip()) != mode:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3) if mode == "RGB" else levels[None]
    before = Image.fromarray(lattice)
    after = np.asarray(transform.apply(before), dtype=np.int16)
    changed = int(np.abs(after - np.asarray(before.convert("RGB"))).max()) > _NO_EFFECT
    return transform if changed else None
