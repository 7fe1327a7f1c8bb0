"""Encoded images of a sample to pixels."""

import io
import warnings
from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stylize.errors import InputError
from stylize.sources.pictures import MAX_PIXELS
from stylize.sources.plain_jpeg import decode_plain_jpeg

_FORMATS = ("JPEG", "PNG", "WEBP")
_ONE_OPENS = Lock()  # the filters of warnings belong to all threads
Pixels = NDArray[np.uint8]


class UnusableImageError(InputError):
    """An image that cannot be learnt from; its text goes on after the sample's name."""


def decode_images(payloads: Sequence[bytes], side: int | None = None) -> Pixels:
    """Return JPEG, PNG or WebP images of one size, `side` × `side` where it is given, as RGB (V, H, W, 3).

    Raises `UnusableImageError` for an image that is none, or of another size, or that has more pixels than any picture
    in a shard.
    """
    if side is None:
        decoded = [_decode(payload, None) for payload in payloads]
        if any(image.shape != decoded[0].shape for image in decoded):
            raise UnusableImageError("has images of different sizes: its pair is not aligned, make the shard again.")
        return np.stack(decoded)
    images = np.empty((len(payloads), side, side, 3), np.uint8)
    for image, payload in zip(images, payloads, strict=True):
        if decode_plain_jpeg(payload, MAX_PIXELS, image) is None:
            image[:] = _decode(payload, side)
    return images


def _decode(payload: bytes, side: int | None) -> Pixels:
    """Return an image as RGB (H, W, 3)."""
    if (pixels := decode_plain_jpeg(payload, MAX_PIXELS)) is not None:
        _check_size(pixels.shape[1], pixels.shape[0], side)
        return pixels
    try:
        with _open_image(payload) as image:
            _check_size(*image.size, side)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError:
        raise UnusableImageError(f"has an image that is not {', '.join(_FORMATS)}: make the shard again.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableImageError(f"has an undecodable image ({error}): make the shard again.") from None


def _open_image(payload: bytes) -> Image.Image:
    """Read an image's header.  Pillow only warns of sizes which `_check_size` refuses, so its warning says nothing."""
    with _ONE_OPENS, warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        return Image.open(io.BytesIO(payload), formats=_FORMATS)


def _check_size(width: int, height: int, side: int | None) -> None:
    if side is not None and (width, height) != (side, side):
        raise UnusableImageError(
            f"has an image of {width}×{height} pixels, not the {side}×{side} of its manifest: make the shard again."
        )
    if width * height > MAX_PIXELS:
        raise UnusableImageError(
            f"has an image of {width}×{height} pixels, more than the limit of {MAX_PIXELS}: make the shard again."
        )
