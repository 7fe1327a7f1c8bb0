"""Plain JPEGs decode as Pillow decodes them, whatever their coding; anything else is left to the rules for odd ones."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylize.shards import decode as pictures
from stylize.shards.decode import MAX_PIXELS, PictureError, decode
from stylize.shards.picture_formats import decode_plain_jpeg

Noise = Callable[..., np.ndarray[Any, Any]]
CODINGS: list[dict[str, Any]] = [
    {"quality": 95, "subsampling": 0},
    {"quality": 30, "subsampling": 1},
    {"quality": 75, "subsampling": 2},
    {"quality": 80, "progressive": True},
    {"quality": 85, "optimize": True, "restart_marker_blocks": 2},
]
OTHERS: dict[str, dict[str, Any]] = {
    "comment": {"comment": b"hello"},
    "profile": {"icc_profile": b"profile"},
    "exif": {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"},
}


def jpeg(pixels: np.ndarray[Any, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("coding", CODINGS, ids=str)
@pytest.mark.parametrize("shape", [(32, 32), (17, 33), (1, 5), (64, 40)])
def test_pixels_are_pillows(noise: Noise, coding: dict[str, Any], shape: tuple[int, int]) -> None:
    data = jpeg(noise(1, *shape), **coding)
    decoded = decode_plain_jpeg(data, MAX_PIXELS)
    assert decoded is not None
    assert np.array_equal(np.asarray(decoded), np.asarray(Image.open(io.BytesIO(data))))
    assert decode_plain_jpeg(data, shape[0] * shape[1] - 1) is None


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_side_data_are_left_to_the_rules(noise: Noise, other: dict[str, Any]) -> None:
    assert decode_plain_jpeg(jpeg(noise(1, 8, 8), **other), MAX_PIXELS) is None


def test_other_pixels_are_left_to_the_rules(noise: Noise) -> None:
    grey = jpeg(noise(1, 8, 8)[..., 0])
    cmyk = io.BytesIO()
    Image.fromarray(noise(1, 8, 8)).convert("CMYK").save(cmyk, "JPEG")
    plain = jpeg(noise(1, 8, 8))
    without_jfif = plain[:2] + plain[20:]  # whose colours readers guess
    for data in (grey, cmyk.getvalue(), without_jfif, b"", plain[:2], b"\x89PNG\r\n\x1a\n" + plain):
        assert decode_plain_jpeg(data, MAX_PIXELS) is None


def outcome(data: bytes) -> tuple[str, bytes]:
    try:
        decoded = decode(data)
    except PictureError as error:
        return str(error), b""
    return "", decoded.picture.tobytes()


def test_damaged_files_meet_the_same_fate_as_with_pillow_alone(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(7)
    whole = [jpeg(noise(2, 24, 24), **coding) for coding in CODINGS]
    damaged = [data[: drawn.randrange(2, len(data))] for data in whole for _ in range(8)]
    for data in whole * 24:
        flipped = bytearray(data)
        flipped[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        damaged.append(bytes(flipped))
    ours = [outcome(data) for data in damaged]
    monkeypatch.setattr(pictures, "decode_plain_jpeg", lambda *_: None)
    assert ours == [outcome(data) for data in damaged]
    assert 20 < sum(bool(reason) for reason, _ in ours) < 150


@pytest.mark.parametrize("coding", [*CODINGS, {"comment": b"x"}, {"exif": b"Exif\0\0damaged"}, {"grey": True}], ids=str)
def test_a_jpeg_without_its_end_is_whole_and_any_other_cut_is_refused(noise: Noise, coding: dict[str, Any]) -> None:
    pixels = noise(3, 40, 40)
    options = {name: value for name, value in coding.items() if name != "grey"}
    whole = jpeg(pixels[..., 0] if "grey" in coding else pixels, **options)
    expected = decode(whole).picture.tobytes()
    for length in range(len(whole) - 400, len(whole)):
        reason, found = outcome(whole[:length])
        if length >= len(whole) - 2:
            assert (reason, found) == ("", expected), length
        assert reason or found == expected, length
    assert sum(not outcome(whole[:length])[0] for length in range(len(whole) - 400, len(whole))) <= 4
    kept = decode(whole[:-2])
    assert Image.open(io.BytesIO(kept.data)).convert("RGB").tobytes() == expected


def test_a_progressive_jpeg_that_ends_between_scans_is_refused(noise: Noise) -> None:
    whole = jpeg(noise(3, 40, 40), progressive=True, quality=90)
    scans = [place for place in range(len(whole)) if whole[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for place in scans[1:]:
        start = whole.rfind(b"\xff\xc4", 0, place)  # the scan's own table comes before it
        for cut in (start, place):
            assert "cannot be decoded" in outcome(whole[:cut])[0]


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_side_data_that_readers_stumble_over_are_cut_out_also_without_an_end(noise: Noise, cut: int) -> None:
    plain = jpeg(noise(1, 16, 16))
    odd = plain[:2] + b"\xff\xee\x00\x07Adobe" + plain[2:]  # too short for what readers look for in it
    decoded = decode(odd[: len(odd) - cut])
    assert decoded.picture.tobytes() == decode(plain).picture.tobytes()
    assert Image.open(io.BytesIO(decoded.data)).tobytes() == decoded.picture.tobytes()
    assert len(decoded.warnings) == 1
