"""From source bytes to the pixels and bytes of a sample: decoding, resizing and encoding."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from stylize.engine.engine import Pixels
from stylize.networks.adain import MIN_SIDE
from stylize.sources.pictures import PictureError, decode, decode_picture

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

    def encode(self, picture: Image.Image) -> bytes:
        """Encode a picture; JPEG without chroma subsampling, which would smear small pictures.

        Raises `PictureError` where the format cannot hold it.
        """
        buffer = io.BytesIO()
        options = {"jpg": {"quality": self.quality, "subsampling": 0}, "webp": {"quality": self.quality}, "png": {}}
        try:
            picture.save(buffer, _PILLOW_FORMATS[self.name], **options[self.name])
        except (OSError, ValueError) as error:
            raise PictureError(f"cannot be stored as {self.name}: {error}") from None
        return buffer.getvalue()

    def read_content(self, data: bytes, size: int | None) -> Content:
        """Return a sample's content.

        With `size` the picture is scaled and centre-cropped to size × size. The source's bytes are kept untouched where
        nothing had to change: right codec, upright sRGB, right size, side data that anybody can read. Raises
        `PictureError` for an unusable picture.
        """
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
        encoded = self.encode(picture)
        return Content(encoded, np.asarray(decode_picture(encoded)), decoded.warnings)
