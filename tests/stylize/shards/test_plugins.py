"""HEIC and JPEG XL: read where their package is installed, else refused with its name."""

import importlib
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError, decode_picture, is_picture
from stylize.shards.picture_formats import HEIF, JXL, Plugin, jxl_size, plugin_for

Noise = Callable[..., Pixels]
HEADS = {
    HEIF: (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", b"\0\0\0\x18ftypmif1\0\0\0\0heic"),
    JXL: (b"\xff\x0a8\x01\x8a", b"\0\0\0\x0cJXL \r\n\x87\n"),
}


def encoded(plugin: Plugin, picture: Image.Image, **options: Any) -> bytes:
    pytest.importorskip(plugin.module)
    assert plugin.is_installed()
    buffer = io.BytesIO()
    picture.save(buffer, plugin.format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("plugin", "data"), [(plugin, data) for plugin, heads in HEADS.items() for data in heads])
def test_the_refusal_names_the_extra(monkeypatch: pytest.MonkeyPatch, plugin: Plugin, data: bytes) -> None:
    monkeypatch.setitem(sys.modules, plugin.module, None)  # as if it were not installed
    monkeypatch.setattr(importlib, "import_module", importlib.__import__)
    Plugin.is_installed.cache_clear()
    try:
        assert (plugin_for(data), is_picture(data)) == (plugin, True)
        with pytest.raises(PictureError, match=rf"{plugin.name}, .*stylized-pairing\[{plugin.extra}\]"):
            decode_picture(data)
    finally:
        Plugin.is_installed.cache_clear()


@pytest.mark.parametrize("plugin", HEADS, ids=lambda plugin: plugin.extra)
def test_pixels_come_upright_and_damage_is_refused(noise: Noise, plugin: Plugin) -> None:
    pixels = np.asarray(Image.fromarray(noise(0, 8, 12)).resize((48, 32), Image.Resampling.BICUBIC))
    options: dict[str, Any] = {"lossless": True} if plugin is JXL else {"quality": 95, "chroma": 444}
    data = encoded(plugin, Image.fromarray(pixels), **options)
    assert np.abs(np.asarray(decode_picture(data)).astype(int) - pixels).mean() < (0.1 if plugin is JXL else 4)
    for cut in (data[: len(data) // 2], data[:40]):
        with pytest.raises(PictureError, match=r"cannot be decoded|not a picture"):
            decode_picture(cut)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_picture(encoded(plugin, Image.fromarray(pixels), exif=exif.tobytes(), **options))
    assert turned.size == ((48, 32) if plugin is JXL else (32, 48))  # HEIC's writer stores the turn with the pixels


def test_an_avif_is_not_taken_for_heic() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "AVIF")
    assert plugin_for(buffer.getvalue()) is None


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (300, 200), (1200, 900), (4000, 30), (1280, 720), (257, 256), (520, 8)]
)
@pytest.mark.parametrize("container", [False, True])
def test_a_jpeg_xl_tells_its_size_before_it_is_decoded(size: tuple[int, int], container: bool) -> None:
    assert jxl_size(encoded(JXL, Image.new("RGB", size), use_container=container)) == size


def test_a_bomb_of_jpeg_xl_does_not_go_off() -> None:
    assert JXL.is_installed() or pytest.importorskip(JXL.module)
    side = 60_000 - 1
    bits = 3 << 1 | side << 3 | 1 << 33  # a side of 30 bits, and the ratio 1:1
    with pytest.raises(PictureError, match="has 60000×60000 pixels"):
        decode_picture(b"\xff\x0a" + bits.to_bytes(12, "little"))
    for damaged in (b"\xff\x0a", HEADS[JXL][1], HEADS[JXL][1] + b"\0\0\0\0abcd"):
        with pytest.raises(PictureError):
            decode_picture(damaged)
