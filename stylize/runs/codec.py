"""From source bytes to the pixels and bytes of a sample: decoding, resizing and encoding."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from stylize.engine.engine import Pixels
from stylize.networks.adain import MIN_SIDE
from stylize.sources.pictures import PictureError, decode, decode_picture

_PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


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

    def read_content(self, data: bytes, size: int | None) -> tuple[bytes, Pixels]:
        """Return a sample's content bytes and its pixels (H, W, 3).

        With `size` the picture is scaled and centre-cropped to size × size. The source's bytes are kept untouched where
        nothing had to change: right codec, upright RGB, right size. Raises `PictureError` for an unusable picture.
        """
        decoded = decode(data)
        picture = decoded.picture
        if size is not None and picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        elif decoded.plain_format == _PILLOW_FORMATS[self.name] and min(picture.size) >= MIN_SIDE:
            return data, np.asarray(picture)
        if min(picture.size) < MIN_SIDE:
            raise PictureError(
                f"has {picture.width}×{picture.height} pixels, the limit is {MIN_SIDE} a side; or set --size"
            )
        encoded = self.encode(picture)
        return encoded, np.asarray(decode_picture(encoded))
