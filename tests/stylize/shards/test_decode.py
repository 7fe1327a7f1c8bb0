import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError, decode, decode_picture

Noise = Callable[..., Pixels]
Encode = Callable[..., bytes]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> Pixels:
    picture = decode_picture(data)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG file that claims a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


# EXIF 2.32, tag 0x0112: what must be done to the stored pixels to show them upright.
ORIENTATIONS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(noise: Noise, encode: Encode, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = noise(0, 20, 30)
    np.testing.assert_array_equal(pixels(encode(stored, "PNG", exif=exif)), ORIENTATIONS[orientation](stored))


@pytest.mark.parametrize("ink", [0, 1, 2, 3])
def test_cmyk_becomes_its_colour(ink: int) -> None:
    inks = [0, 0, 0, 0]
    inks[ink] = 255
    expected = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)][ink]
    data = saved(Image.new("CMYK", (16, 16), tuple(inks)), "JPEG", quality=100)
    assert np.abs(pixels(data).astype(int) - expected).max() <= 3


def test_palette_with_and_without_transparency() -> None:
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.putpixel((0, 0), 2)
    assert [tuple(pixels(saved(picture))[0, x]) for x in (0, 1)] == [BLUE, GREEN]
    assert tuple(pixels(saved(picture, transparency=2))[0, 0]) == (255, 255, 255)
    assert tuple(pixels(saved(picture, transparency=2))[0, 1]) == GREEN


def test_grey_is_copied_to_all_channels() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_tones(kind: str) -> None:
    grey = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    expected = np.round(grey / 65535 * 255)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(grey), kind))[..., 0], expected)


def test_hidden_colour_is_not_revealed() -> None:
    rgba = np.zeros((2, 4, 4), np.uint8)
    rgba[..., :3] = RED
    rgba[:, 2:, 3] = 255
    rgba[:, 1, 3] = 128
    found = pixels(saved(Image.fromarray(rgba)))
    assert tuple(found[0, 0]) == (255, 255, 255)
    np.testing.assert_allclose(found[0, 1], [255, 127, 127], atol=1)
    assert tuple(found[0, 3]) == RED


def test_grey_with_alpha_is_composited_on_white() -> None:
    assert tuple(pixels(saved(Image.new("LA", (2, 2), (10, 0))))[0, 0]) == (255, 255, 255)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(pixels(data)[0, 0]) == RED


@pytest.mark.parametrize(("size", "accepted"), [((1, 1), True), ((16, 1), True), ((17, 1), False), ((2, 33), False)])
def test_extreme_aspect_ratios_are_rejected(size: tuple[int, int], accepted: bool) -> None:
    data = saved(Image.new("RGB", size, RED))
    if accepted:
        assert pixels(data).shape == (size[1], size[0], 3)
    else:
        with pytest.raises(PictureError, match="aspect ratio"):
            decode_picture(data)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((8100, 8000), "has 8100×8000 pixels, more than the limit"),
        ((10_000, 9_900), "decompression bomb"),
        ((60_000, 60_000), "decompression bomb"),
    ],
)
def test_bombs_are_rejected_before_they_go_off(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode_picture(png_header(*size))


def test_files_that_are_no_pictures_are_rejected(noise: Noise, encode: Encode) -> None:
    jpeg, png = encode(noise(0, 64, 64), "JPEG"), encode(noise(0))
    for data in (jpeg[: len(jpeg) // 2], png[: len(png) // 2], jpeg[:3], b"", b"<html>", bytes(1000)):
        with pytest.raises(PictureError) as caught:
            decode_picture(data)
        assert " at 0x" not in str(caught.value)  # an address would differ in every run


def test_a_png_without_its_end_is_not_stored_as_it_is(noise: Noise, encode: Encode) -> None:
    whole = encode(noise(0))
    assert (decode(whole).plain_format, decode(whole[:-12]).plain_format) == ("PNG", None)
    assert decode(whole[:-12]).picture.tobytes() == noise(0).tobytes()


def test_nothing_of_the_sources_metadata_is_kept(noise: Noise, encode: Encode) -> None:
    assert not decode_picture(encode(noise(0), "JPEG", icc_profile=b"profile", comment=b"comment")).info
