import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from stylize.jobs.job import Codec
from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError

Noise = Callable[..., Pixels]
Encode = Callable[..., bytes]
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def decoded(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("codec", FORMATS)
@pytest.mark.parametrize("size", [None, 32])
def test_bytes_stay_untouched_where_nothing_changes(noise: Noise, encode: Encode, codec: str, size: int | None) -> None:
    data = encode(noise(0), FORMATS[codec])
    content, pixels, _ = Codec(codec, 50).read_content(data, size)
    assert content is data
    np.testing.assert_array_equal(pixels, decoded(data))


def test_16_bit_sources_are_scaled_by_the_bits_that_they_use() -> None:
    grey = (np.arange(1024, dtype=np.uint16) * 4).reshape(32, 32)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    _, pixels, warnings = Codec("png", 90, bits=12).read_content(buffer.getvalue(), None)
    np.testing.assert_array_equal(pixels[..., 1], np.round(grey / 4095 * 255))
    assert (warnings, len(Codec("png", 90).read_content(buffer.getvalue(), None).warnings)) == ((), 1)


@pytest.mark.parametrize("codec", FORMATS)
def test_another_codec_re_encodes_and_returns_the_new_pixels(noise: Noise, encode: Encode, codec: str) -> None:
    data = encode(noise(0), "BMP")
    content, pixels, _ = Codec(codec, 90).read_content(data, None)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == FORMATS[codec]
    np.testing.assert_array_equal(pixels, decoded(content))
    assert np.abs(pixels.astype(float) - noise(0)).mean() < 8


@pytest.mark.parametrize(("height", "width"), [(48, 32), (20, 60), (64, 64), (16, 16)])
def test_size_scales_the_short_side_and_crops_the_centre(noise: Noise, encode: Encode, height: int, width: int) -> None:
    data = encode(noise(1, height, width))
    _, pixels, _ = Codec("png", 1).read_content(data, 24)
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    with Image.open(io.BytesIO(data)) as picture:
        box = (left, top, left + short, top + short)
        expected = picture.resize((24, 24), Image.Resampling.BICUBIC, box=box)
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_exif_orientation_is_applied_and_dropped(noise: Noise, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    data = encode(noise(2, 32, 48), "JPEG", exif=exif, quality=100, subsampling=0)
    content, pixels, _ = Codec("jpg", 100).read_content(data, None)
    assert content != data
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.size, dict(picture.getexif())) == ((32, 48), {})
    assert np.abs(pixels.astype(float) - np.rot90(noise(2, 32, 48), -1)).mean() < 3


@pytest.mark.parametrize("codec", FORMATS)
def test_a_copy_carries_no_profile_or_comment_of_its_source(noise: Noise, encode: Encode, codec: str) -> None:
    data = encode(noise(0), "JPEG", icc_profile=b"profile of the source", comment=b"comment of the source")
    content, _, _ = Codec(codec, 90).read_content(data, 16)
    assert b"of the source" not in content
    with Image.open(io.BytesIO(content)) as picture:
        assert "icc_profile" not in picture.info


def test_grey_and_transparent_pictures_become_rgb(noise: Noise) -> None:
    grey = Image.fromarray(noise(0)).convert("L")
    transparent = Image.fromarray(noise(0)).convert("RGBA")
    for picture in (grey, transparent):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        content, pixels, _ = Codec("png", 1).read_content(buffer.getvalue(), None)
        with Image.open(io.BytesIO(content)) as stored:
            assert stored.mode == "RGB"
        assert pixels.shape == (32, 32, 3)


def test_jpeg_keeps_the_colours_resolution(noise: Noise) -> None:
    with Image.open(io.BytesIO(Codec("jpg", 95).encode(noise(0)))) as picture:
        assert picture.layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)]  # type: ignore[attr-defined]


def test_too_small_pictures_need_a_size(noise: Noise, encode: Encode) -> None:
    data = encode(noise(0, 15, 40))
    with pytest.raises(PictureError, match="40×15 pixels, the limit is 16 a side"):
        Codec("png", 1).read_content(data, None)
    assert Codec("png", 1).read_content(data, 16)[1].shape == (16, 16, 3)


def test_a_picture_that_the_format_cannot_hold_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16_384, 1_100)).save(buffer, "PNG", compress_level=1)
    with pytest.raises(PictureError, match="cannot be stored as webp"):
        Codec("webp", 50).read_content(buffer.getvalue(), None)


def test_a_damaged_second_page_does_not_matter(noise: Noise) -> None:
    first, second = (Image.fromarray(noise(seed)) for seed in (0, 1))
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[second])
    data = buffer.getvalue()[: len(buffer.getvalue()) // 2]  # in the header of the second
    _, pixels, _ = Codec("png", 50).read_content(data, None)
    np.testing.assert_array_equal(pixels, noise(0))
