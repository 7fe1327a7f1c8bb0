"""Pixels by the kind of file, against NumPy: right, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError, decode_picture

HEIGHT, WIDTH = 16, 24
RAW, DEFLATE = 1, 8


def gradient(channels: int) -> Pixels:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([15 * y, 10 * x, 6 * (x + y), 255 - 10 * x][:channels], -1).astype(np.uint8)


def tiff(values: NDArray[np.integer], photometric: int, compression: int, apart: bool) -> bytes:
    """Write a little-endian TIFF (TIFF 6.0) of (H, W, channels), all channels together or one after the other."""
    height, width, channels = values.shape
    strips = np.moveaxis(values, -1, 0) if apart else values[None]
    packed = [strip.tobytes() if compression == RAW else zlib.compress(strip.tobytes()) for strip in strips]
    offsets = np.cumsum([8, *map(len, packed)])[:-1]
    extra = channels - (1 if photometric == 1 else 3)
    fields: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [8 * values.itemsize] * channels),
        259: ("H", [compression]), 262: ("H", [photometric]), 273: ("I", offsets.tolist()), 277: ("H", [channels]),
        278: ("I", [height]), 279: ("I", list(map(len, packed))), 284: ("H", [2 if apart else 1]),
    }  # fmt: skip
    if extra:
        fields[338] = ("H", [2] * extra)  # transparency
    start = 8 + sum(map(len, packed))
    rest, entries = b"", b""
    for tag, (kind, numbers) in sorted(fields.items()):
        payload = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        if len(payload) > 4:
            where = start + 2 + 12 * len(fields) + 4 + len(rest)
            rest, payload = rest + payload, struct.pack("<I", where)
        entries += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + payload.ljust(4, b"\0")
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + b"".join(packed) + directory + rest


def on_white(values: Pixels) -> NDArray[np.float64]:
    colours, opacity = values[..., :-1].astype(float), values[..., -1:] / 255
    return np.broadcast_to(colours * opacity + 255 * (1 - opacity), (HEIGHT, WIDTH, 3))


EXPECTED = {
    1: lambda values: np.broadcast_to(values, (HEIGHT, WIDTH, 3)),
    2: on_white,
    3: lambda values: values,
    4: on_white,
}


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("compression", [RAW, DEFLATE], ids=["raw", "deflate"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_tiff_is_right_or_refused(channels: int, bits: int, compression: int, apart: bool) -> None:
    values = gradient(channels)
    stored = values if bits == 8 else values.astype(np.uint16) * 257
    data = tiff(stored, 1 if channels < 3 else 2, compression, apart)
    planes_of_16_bits = apart and bits == 16 and compression == RAW
    if channels == 2 and (apart or bits == 16):  # Pillow itself knows most of these as no picture
        with pytest.raises(PictureError):
            decode_picture(data)
    elif planes_of_16_bits:
        with pytest.raises(PictureError, match="stores its channels apart"):
            decode_picture(data)
    else:
        difference = np.asarray(decode_picture(data)) - EXPECTED[channels](values)
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("signed", [False, True])
def test_signed_jpeg_2000_is_refused(signed: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(gradient(3)).save(buffer, "JPEG2000", signed=signed)
    if signed:
        with pytest.raises(PictureError, match="has signed integer pixels"):
            decode_picture(buffer.getvalue())
    else:
        assert np.array_equal(np.asarray(decode_picture(buffer.getvalue())), gradient(3))
