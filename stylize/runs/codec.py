"""From source bytes to the pixels and bytes of a sample: decoding, resizing and encoding."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from stylize.engine.engine import Pixels
from stylize.networks.adain import MIN_SIDE
from stylize.sources.pictures import MAX_PIXELS, PictureError, decode, decode_picture
from stylize.sources.plain_jpeg import decode_plain_jpeg

_PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


class Content(NamedTuple):
    """A sample's content bytes, their pixels (H, W, 3), and what looked wrong in decoding the source."""

    data: bytes
    pixels: Pixels
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Codec:
    """An image format and its quality, 1 to 100 (PNG is lossless and ignores it)."""

    name: str
    quality: int

    def encode(self, pixels: Pixels) -> bytes:
        """Encode pixels (H, W, 3); JPEG by libjpeg-turbo, without chroma subsampling, which would smear small pictures.

        Raises `PictureError` where the format cannot hold them.
        """
        buffer = io.BytesIO()
        options = {"quality": self.quality} if self.name == "webp" else {}
        try:
            if self.name == "jpg":
                encoded: bytes = simplejpeg.encode_jpeg(pixels, self.quality, colorsubsampling="444")
                return encoded
            Image.fromarray(pixels).save(buffer, _PILLOW_FORMATS[self.name], **options)
        except (OSError, ValueError) as error:
            raise PictureError(f"cannot be stored as {self.name}: {error}") from None
        return buffer.getvalue()

    def read_content(self, data: bytes, size: int | None) -> Content:
        """Return a sample's content.

        With `size` the picture is scaled and centre-cropped to size × size. The source's bytes are kept untouched where
        nothing had to change: right codec, upright sRGB, right size, side data that anybody can read. Raises
        `PictureError` for an unusable picture.
        """
        if self.name == "jpg" and size is not None:
            pixels = decode_plain_jpeg(data, MAX_PIXELS, into=np.empty((size, size, 3), np.uint8))
            if pixels is not None:  # as what follows would give, without a way through Pillow
                return Content(data, pixels, ())
        decoded = decode(data)
        picture = decoded.picture
        if size is not None and picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        elif decoded.plain_format == _PILLOW_FORMATS[self.name] and min(picture.size) >= MIN_SIDE:
            return Content(decoded.data, np.asarray(picture), decoded.warnings)
        if min(picture.size) < MIN_SIDE:
            raise PictureError(
                f"has {picture.width}×{picture.height} pixels, the limit is {MIN_SIDE} a side; or set --size"
            )
        encoded = self.encode(np.ascontiguousarray(picture))
        return Content(encoded, np.asarray(decode_picture(encoded)), decoded.warnings)
