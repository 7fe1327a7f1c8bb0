"""Decoded pixels of any mode and depth as 8-bit sRGB, where their range is known."""

import io
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

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


def narrow_range(picture: Image.Image, data: bytes) -> Iterator[str]:
    """Yield a warning where no value of a loaded 16-bit picture is beyond a quarter of its range."""
    if not _has_16_bits(picture, data):
        return
    highest = _highest(picture, data)
    if 0 < highest < 2**14:
        bits = max(8, highest.bit_length() + highest.bit_length() % 2)
        yield f"has no 16-bit value beyond {highest}, so it is nearly black: if it uses {bits} bits, give --bits {bits}"


def wrong_bits(picture: Image.Image, data: bytes, bits: int) -> str | None:
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


def to_rgb(picture: Image.Image, data: bytes, profile: bytes | None, bits: int | None = None) -> Image.Image:
    """Return a loaded picture of known range as RGB in sRGB; transparency is composited on white afterwards.

    `bits` are those that 16-bit pictures use, None for all.
    """
    bits = bits if _has_16_bits(picture, data) else None
    if bits is not None and picture.mode == "RGB":
        return to_srgb(Image.fromarray(_scaled(_full_depth(picture, data), bits)), profile)
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
    rgb = to_srgb(_opaque(picture, bits), profile)
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
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 18, 3) if mode == "RGB" else levels[None]
    before = Image.fromarray(lattice)
    after = np.asarray(transform.apply(before), dtype=np.int16)
    changed = int(np.abs(after - np.asarray(before.convert("RGB"))).max()) > _NO_EFFECT
    return transform if changed else None
