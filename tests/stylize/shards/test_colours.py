"""Pixels by the kind of file, against NumPy: right, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError, decode, decode_picture

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


def png(values: NDArray[np.uint16]) -> bytes:
    """Write a 16-bit PNG, grey (H, W) or RGB (H, W, 3), which Pillow writes in grey only."""
    height, width, *colours = values.shape
    rows = values.astype(">u2").reshape(height, -1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2 if colours else 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
@pytest.mark.parametrize("colours", [False, True])
def test_fewer_bits_in_16_are_scaled_where_they_are_told_and_warned_of_where_not(bits: int, colours: bool) -> None:
    eight = gradient(3) if colours else gradient(1)[..., 0]
    values = np.round(eight / 255.0 * (2**bits - 1)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    data = png(values)
    expected = np.broadcast_to(np.round(values / (2**bits - 1) * 255).reshape(HEIGHT, WIDTH, -1), (HEIGHT, WIDTH, 3))
    assert np.array_equal(np.asarray(decode(data, bits).picture), expected)
    assert decode(data, bits).warnings == ()
    warned = decode(data).warnings
    assert (len(warned) == 1 and f"--bits {bits}" in warned[0]) == (bits < 15)
    with pytest.raises(PictureError, match=f"--bits {bits - 1} does not hold"):
        decode(data, bits - 1)


def test_bits_change_no_other_picture() -> None:
    buffer = io.BytesIO()
    Image.fromarray(gradient(3)).save(buffer, "PNG")
    full = png((gradient(1)[..., 0].astype(np.uint16) + 1) * 255)
    ppm = b"P5 24 16 4095\n" + (gradient(1)[..., 0].astype(">u2") * 16).tobytes()  # which tells its range
    for data in (buffer.getvalue(), ppm):
        assert decode(data, 12).picture.tobytes() == decode(data).picture.tobytes()
    assert decode(full).warnings == decode(ppm).warnings == ()


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
def test_a_tiff_of_16_bits_has_the_same_rules(compression: int) -> None:
    data = tiff(gradient(1).astype(np.uint16) * 16, 1, compression, apart=False)
    assert "--bits 12" in decode(data).warnings[0]
    expected = np.round(gradient(1).astype(int) * 16 / 4095 * 255)
    assert np.array_equal(np.asarray(decode(data, 12).picture)[..., :1], expected)
    colours = tiff(gradient(3).astype(np.uint16) * 16, 2, compression, apart=False)
    assert "--bits 12" in decode(colours).warnings[0]
    with pytest.raises(PictureError, match="--bits"):
        decode(colours, 12)
