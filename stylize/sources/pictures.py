"""Decode pictures to RGB, with one documented policy for odd ones."""

import io
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64_000_000
MAX_ASPECT_RATIO = 16
_FILTERS = threading.Lock()  # warning filters are the process's, and pictures are decoded in threads


class PictureError(Exception):
    """Why a file cannot be used as a picture; the caller records it and goes on."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright 8-bit RGB picture, and its file's format, as Pillow names it, if nothing had to change for that."""

    picture: Image.Image
    plain_format: str | None


def decode_picture(data: bytes) -> Image.Image:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer."""
    return decode(data).picture


def decode(data: bytes) -> Decoded:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer.

    First frame of an animation; EXIF orientation applied; transparency composited on white; 16-bit grey scaled to 8;
    floating-point pixels refused.
    A JPEG whose scan is corrupt but complete is decoded as far as Pillow can, as every other tool does.
    """
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
        _check_size(*picture.size)
        picture.load()
        plain = _is_plain(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        return Decoded(_to_rgb(picture), picture.format if plain else None)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError("is larger than any real picture (decompression bomb)") from None
    except PictureError:
        raise
    except UnidentifiedImageError:  # its message holds a memory address, different in every run
        raise PictureError("is not a picture in a known format") from None
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        raise PictureError(f"cannot be decoded: {error}") from None


def _is_plain(picture: Image.Image) -> bool:
    """Tell whether a picture is upright RGB and a single frame."""
    upright = picture.getexif().get(0x0112, 1) == 1
    opaque = picture.mode == "RGB" and not picture.has_transparency_data
    # Pages of a TIFF are read for their number, and some may be damaged; no codec keeps a TIFF.
    return upright and opaque and picture.format != "TIFF" and getattr(picture, "n_frames", 1) == 1


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"has {width}×{height} pixels, more than the limit of {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PictureError(f"has the aspect ratio of {width}×{height}, beyond the limit of {MAX_ASPECT_RATIO}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise PictureError("has floating-point pixels, whose range is not known")
    if picture.mode.startswith("I"):  # 16-bit grey: a plain conversion to RGB would clip it to white
        grey = np.clip(np.asarray(picture, dtype=np.float64) / 257.0, 0, 255).round().astype(np.uint8)
        picture = Image.fromarray(grey)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    rgb = picture.convert("RGB")
    rgb.info.clear()  # a colour profile or a comment of the source would be written into its copies
    return rgb
