"""Odd and damaged image files, all of them in one run: right pixels where there is a right answer, else a record."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylize.jobs.job import Job
from stylize.jobs.run import make_shards
from stylize.networks.stylizer import Pixels
from stylize.shards import Sample, read_shard
from stylize.shards.decode import PictureError
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from stylize.sources.folder import list_pictures

HEIGHT, WIDTH = 20, 24
WHITE, RED, GREEN = (255, 255, 255), (255, 0, 0), (0, 255, 0)


def gradient() -> Pixels:
    """Return smooth pixels (HEIGHT, WIDTH, 3), no two rows or columns alike."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([10 * y, 10 * x, 5 * (x + y)], -1).astype(np.uint8)


def flat(*colour: int) -> Pixels:
    return np.broadcast_to(np.array(colour, np.uint8), (HEIGHT, WIDTH, 3))


def saved(picture: Image.Image | Pixels, kind: str = "PNG", /, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(gradient(), exif=exif)


def palette(**options: object) -> bytes:
    picture = Image.new("P", (WIDTH, HEIGHT), 1)
    picture.putpalette([*RED, *GREEN])
    return saved(picture, **options)


def rgba() -> bytes:
    """Return a picture whose left half is transparent over red, and whose right half is green."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[:, : WIDTH // 2] = (*RED, 0)
    pixels[:, WIDTH // 2 :] = (*GREEN, 255)
    return saved(pixels)


def halves(left: tuple[int, ...], right: tuple[int, ...]) -> Pixels:
    return np.concatenate([flat(*left)[:, : WIDTH // 2], flat(*right)[:, WIDTH // 2 :]], 1)


def grey16(kind: str) -> bytes:
    return saved(Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257), kind)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Write a PNG by hand (RFC 2083): bits per channel, colour type 0 (grey) or 2 (RGB), unfiltered rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def rgb16() -> bytes:
    rows = gradient().astype(">u2") * 257
    return png(WIDTH, HEIGHT, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))


def bomb() -> bytes:
    data = png(14_000, 14_000, 1, 0, bytes((14_000 // 8 + 1) * 14_000))
    assert len(data) < 30_000
    return data


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(flat(*colour)) for colour in (RED, GREEN)]
    return saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )


def grey() -> Pixels:
    return np.repeat(gradient()[..., :1], 3, 2)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


# File name, its bytes, the right pixels, and how many grey levels a lossy format may be off.
RIGHT: list[tuple[str, bytes, Pixels, int]] = [
    ("plain.png", saved(gradient()), gradient(), 0),
    ("plain.jpg", saved(gradient(), "JPEG", quality=100, subsampling=0), gradient(), 3),
    ("upside-down.png", oriented(3), gradient()[::-1, ::-1], 0),
    ("turned.png", oriented(6), np.rot90(gradient(), -1), 0),
    ("mirrored-and-turned.png", oriented(5), gradient().transpose(1, 0, 2), 0),
    ("cmyk.jpg", saved(Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)), "JPEG", quality=100), flat(*RED), 3),
    ("cmyk.tif", saved(Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 255, 0)), "TIFF"), flat(*GREEN), 0),
    ("palette.png", palette(), flat(*GREEN), 0),
    ("palette-transparent.png", palette(transparency=1), flat(*WHITE), 0),
    ("grey.png", saved(gradient()[..., 0]), grey(), 0),
    ("grey-16.png", grey16("PNG"), grey(), 0),
    ("grey-16.tif", grey16("TIFF"), grey(), 0),
    ("rgb-16.png", rgb16(), gradient(), 0),
    ("black-and-white.png", saved(Image.new("1", (WIDTH, HEIGHT), 1)), flat(*WHITE), 0),
    ("rgba.png", rgba(), halves(WHITE, GREEN), 0),
    ("grey-alpha.png", saved(Image.new("LA", (WIDTH, HEIGHT), (10, 0))), flat(*WHITE), 0),
    ("animated.gif", animated("GIF"), flat(*RED), 0),
    ("animated.png", animated("PNG"), flat(*RED), 0),
    ("animated.webp", animated("WEBP"), flat(*RED), 0),
    ("flat.png", saved(flat(7, 7, 7)), flat(7, 7, 7), 0),
    ("same-stem.png", saved(flat(1, 2, 3)), flat(1, 2, 3), 0),
    ("same-stem.bmp", saved(flat(4, 5, 6), "BMP"), flat(4, 5, 6), 0),
    ("dots.in.the.name.png", saved(flat(7, 8, 9)), flat(7, 8, 9), 0),
    ("spaces in the name.PNG", saved(flat(1, 1, 2)), flat(1, 1, 2), 0),
    ("日本 ünïcode [x].png", saved(flat(1, 1, 3)), flat(1, 1, 3), 0),
    ("long.png", saved(np.repeat(gradient()[:16, :1], 256, 1)), np.repeat(gradient()[:16, :1], 256, 1), 0),
]
REJECTED: list[tuple[str, bytes, str]] = [
    ("cut.jpg", cut(saved(np.tile(gradient(), (5, 5, 1)), "JPEG")), "cannot be decoded"),
    ("cut.png", cut(saved(gradient())), "cannot be decoded"),
    ("page.jpg", b"<!DOCTYPE html><title>404</title>", "is not a picture in a known format"),
    ("empty.jpg", b"", "is not a picture in a known format"),
    ("bomb.png", bomb(), "decompression bomb"),
    ("one-pixel.png", saved(flat(1, 2, 3)[:1, :1]), "has 1×1 pixels, the limit is 16 a side"),
    ("ribbon.png", saved(np.zeros((16, 273, 3), np.uint8)), "aspect ratio of 273×16"),
    ("float.tif", saved(Image.new("F", (WIDTH, HEIGHT), 0.5), "TIFF"), "floating-point pixels"),
]
UNREADABLE = {
    "dangling.png": "cannot be read: No such file or directory",
    "loop.png": "cannot be read: Too many levels of symbolic links",
    "pipe.png": "cannot be read: it is not a regular file",
    "around": "is a link to a folder around it",
    "endless.png": "cannot be read: it is not a regular file",
}
REASONS = {name: reason for name, _, reason in REJECTED} | UNREADABLE


def fill(folder: Path) -> None:
    files = {name: data for name, data, _ in REJECTED} | {name: data for name, data, _, _ in RIGHT}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.png").symlink_to("absent")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "around").symlink_to(folder.parent)
    (folder / "a-folder.png").mkdir()
    for ignored in ("notes.txt", ".hidden.png", "a-folder.png/Thumbs.db"):
        (folder / ignored).write_bytes(b"not a picture")


@pytest.fixture(scope="module")
def out(make_job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the finished folder of a run over all cases; codec PNG, so that stored pixels are exact."""
    root = tmp_path_factory.mktemp("bad") / "images"
    for folder in ("train/odd", "train/plain", "test/odd"):
        (root / folder).mkdir(parents=True)
    fill(root / "train/odd")
    for index, folder in enumerate(("train/plain", "test/odd")):
        (root / folder / "a.png").write_bytes(saved(flat(index, 9, 9)))
    make_shards(make_job(root, codec="png"), root.parent / "out", max_failures=len(REASONS))
    return root.parent / "out"


@pytest.fixture(scope="module")
def by_name(out: Path) -> dict[str, Sample]:
    samples = [sample for path in read_manifest(out).paths(out, "train") for sample in read_shard(path)]
    assert len({sample.key for sample in samples}) == len(samples) == len(RIGHT) + 1
    return {str(sample.metadata["source"]).removeprefix("train/odd/"): sample for sample in samples}


@pytest.mark.parametrize(("name", "expected", "tolerance"), [(name, *rest) for name, _, *rest in RIGHT])
def test_pixels_are_right(by_name: dict[str, Sample], name: str, expected: Pixels, tolerance: int) -> None:
    with (
        Image.open(io.BytesIO(by_name[name].content)) as content,
        Image.open(io.BytesIO(by_name[name].styled[0])) as copy,
    ):
        found, size, modes = np.asarray(content), copy.size, (content.mode, copy.mode)
    assert modes == ("RGB", "RGB")
    assert found.shape == expected.shape
    assert size == (found.shape[1], found.shape[0])
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= tolerance


def test_every_rejection_is_recorded_and_nothing_else(out: Path) -> None:
    lines = (out / "failures.jsonl").read_text(encoding="utf-8").splitlines()
    found = {str(record["path"]).removeprefix("train/odd/"): record["reason"] for record in map(json.loads, lines)}
    assert found.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reason in found[name], name
    assert read_manifest(out).failures == len(REASONS)
    assert verify_shards(out) == []


def test_a_jpeg_that_is_corrupt_in_its_scan_is_decoded_as_far_as_it_goes(
    make_job: Callable[..., Job], make_class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    """The documented policy: Pillow fills the rest, as other tools do; what lies before the damage is right."""
    big = np.tile(gradient(), (5, 5, 1))
    data = bytearray(saved(big, "JPEG", quality=100, subsampling=0))
    middle = len(data) * 3 // 4
    data[middle : middle + 8] = b"\x55" * 8
    root = make_class_folders(tmp_path / "images", train=2, test=2)
    (root / "train/cat/corrupt.jpg").write_bytes(data)
    make_shards(make_job(root, codec="png"), tmp_path / "out")
    (sample,) = (
        s for s in read_shard(tmp_path / "out/train-000000.tar") if s.metadata["source"].endswith("corrupt.jpg")
    )
    with Image.open(io.BytesIO(sample.content)) as picture:
        found = np.asarray(picture).astype(int)
    assert np.abs(found[:50] - big[:50]).max() <= 4
    assert np.abs(found - big).max() > 30


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylize.sources.folder.MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1001))
        archive.writestr("b.png", bytes(1000))
    (tmp_path / "a.png").write_bytes(bytes(1001))
    packed, whole = list_pictures(tmp_path / "a.zip")
    (file,) = list_pictures(tmp_path / "a.png")
    for picture in (packed, file):
        with pytest.raises(PictureError, match="has 1001 bytes, more than the limit"):
            picture.read()
    assert len(whole.read()) == 1000
