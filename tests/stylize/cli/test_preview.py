import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylize.cli.sheet import LABEL_HEIGHT, MARGIN, contact_sheet, render_pairs, shard_sheet, style_sheet
from stylize.console import InputError
from stylize.jobs.job import Job
from stylize.jobs.run import make_shards
from stylize.networks.styles import Style
from stylize.networks.stylizer import Pixels, Stylizer
from stylize.shards import Sample, read_shard, write_shard
from stylize.shards.decode import decode_picture
from stylize.shards.manifest import Flag, Manifest, ShardEntry, read_manifest, write_manifest

Noise = Callable[..., Pixels]
Encode = Callable[..., bytes]
Run = Callable[..., tuple[int, str, str]]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def tile(sheet: Image.Image, row: int, column: int, size: int, columns: int) -> Pixels:
    """Cut a tile out of a sheet; the columns end at its right edge."""
    left = sheet.width - (columns - column) * (size + MARGIN)
    top = LABEL_HEIGHT + MARGIN + row * (size + MARGIN)
    return np.asarray(sheet.crop((left, top, left + size, top + size)))


def test_tiles_lie_in_their_rows_and_columns(noise: Noise) -> None:
    rows = [[Image.fromarray(noise(10 * row + column)) for column in range(3)] for row in range(2)]
    sheet = contact_sheet(rows, ["first", "second"], ["a", "b", "a label longer than its tile"], 32)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(tile(sheet, row, column, 32, 3), noise(10 * row + column))


def test_tiles_keep_the_aspect_ratio() -> None:
    sheet = contact_sheet([[Image.new("RGB", (20, 10), "black")]], [""], [""], 40)
    found = tile(sheet, 0, 0, 40, 1)
    assert (found[10:30] == 0).all()
    assert (found[:10] == 255).all()
    assert (found[30:] == 255).all()


def test_style_sheet_is_the_engines_output(
    stylizer: Stylizer, styles: list[Style], tmp_path: Path, noise: Noise, encode: Encode
) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise(7)))
    sheet = style_sheet(stylizer, styles, [tmp_path / "a.png"], 32)
    np.testing.assert_array_equal(tile(sheet, 1, 0, 32, 4), noise(7))
    expected = stylizer(np.stack([noise(7)] * 3), [0, 1, 2], 1.0)
    for column in range(3):
        np.testing.assert_array_equal(tile(sheet, 1, 1 + column, 32, 4), expected[column])


def test_bad_pictures_and_sizes_are_named(stylizer: Stylizer, styles: list[Style], tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"page\.png is not a picture"):
        style_sheet(stylizer, styles, [tmp_path], 32)
    with pytest.raises(InputError, match="--size is 8: give at least 16"):
        style_sheet(stylizer, styles, [tmp_path], 8)
    with pytest.raises(InputError, match="does not exist"):
        style_sheet(stylizer, styles, [tmp_path / "absent"], 32)


def test_shard_sheet_shows_the_first_pairs_of_every_class(finished: Path) -> None:
    sheet = shard_sheet(finished, tile=32)
    manifest = read_manifest(finished)
    samples = [sample for path in manifest.paths(finished, "train") for sample in read_shard(path)]
    for label in range(2):
        first, *_ = (sample for sample in samples if sample.label == label)
        for column, data in enumerate((first.content, *first.styled)):
            np.testing.assert_array_equal(tile(sheet, label, column, 32, 8), np.asarray(decode_picture(data)))


def test_a_row_is_a_class_and_its_pairs_stand_side_by_side(tmp_path: Path, encode: Encode) -> None:
    """Thirty classes of three pairs, each of its own grey: the first twenty are shown, but for one without pairs."""
    grey = [np.full((16, 16, 3), 8 * label, np.uint8) for label in range(30)]
    samples = [
        Sample(f"{3 * label + copy:08d}", encode(grey[label]), (encode(grey[label] + np.uint8(copy + 1)),), label, {})
        for copy in range(3)
        for label in range(30)
        if label != 7
    ]
    write_shard(tmp_path / "train-000000.tar", samples, "png")
    names = [f"{label} {'long name ' * 9}" for label in range(30)]
    spec = {"class_names": names, "styles_per_image": 1, "styles": [], "counts": {"train": 87}}
    write_manifest(tmp_path, Manifest(spec, (ShardEntry("train-000000.tar", "train", 87, 1, "00"),)))
    sheet = shard_sheet(tmp_path, tile=16)
    assert sheet.height == LABEL_HEIGHT + MARGIN + 19 * (16 + MARGIN)
    assert sheet.width < 6 * (16 + MARGIN) + 250
    for row, label in enumerate(label for label in range(20) if label != 7):
        for pair in range(3):
            assert (tile(sheet, row, 2 * pair, 16, 6) == 8 * label).all()
            assert (tile(sheet, row, 2 * pair + 1, 16, 6) == 8 * label + pair + 1).all()


def test_shards_that_cannot_be_shown_are_named(copied: Path) -> None:
    path = copied / "train-000000.tar"
    write_shard(path, [replace(sample, styled=(b"<html>",)) for sample in read_shard(path)])
    with pytest.raises(InputError, match=r"A picture of sample .* is not a picture"):
        shard_sheet(copied)
    manifest = read_manifest(copied)
    tests = tuple(shard for shard in manifest.shards if shard.split == "test")
    spec = {**manifest.spec, "counts": {"train": 0, "test": 4}}
    write_manifest(copied, replace(manifest, spec=spec, shards=tests))
    with pytest.raises(InputError, match="has no training pairs"):
        shard_sheet(copied)


def test_a_page_shows_flagged_pairs_first_then_every_class_and_style(run: Run, copied: Path, tmp_path: Path) -> None:
    manifest = read_manifest(copied)
    samples = [sample for path in manifest.paths(copied, "train") for sample in read_shard(path)]
    reason = "copy 0 is nearly <b>its</b> content"
    flags = Flag("train", samples[-1].key, reason), Flag("test", "00000002", "the same file is in train")
    write_manifest(copied, replace(manifest, flagged=flags))
    code, output, _ = run("preview", "--shards", copied, "-o", "pairs.html")
    page = (tmp_path / "pairs.html").read_text()
    assert (code, "pairs.html" in output) == (0, True)
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)  # nothing beside the page
    flagged, *classes = re.split("<h2", page)[1:]
    assert f"{samples[-1].key}, {samples[-1].metadata['source']}" in flagged
    assert "&lt;b&gt;its" in flagged
    assert "test 00000002: the same file is in train" in flagged
    assert len(classes) == 2
    for label, section in enumerate(classes):
        first: dict[str, Sample] = {}
        for sample in (one for one in samples if one.label == label):
            first.setdefault(sample.metadata["styles"][0], sample)
        shown = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", section)]
        expected = [first[style] for style in sorted(first)]
        assert shown == [data for sample in expected for data in (sample.content, *sample.styled)]
        assert section.count('type="range"') == len(expected)


def test_large_pictures_are_scaled_down_in_a_page(
    run: Run, make_job: Callable[..., Job], make_class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    job = make_job(make_class_folders(tmp_path / "large", 2, 1, 600), alpha="0.2:0.4", transfer="colours")
    make_shards(job, tmp_path / "out")
    assert run("preview", "--shards", "out", "-o", "pairs.html")[0] == 0
    page = (tmp_path / "pairs.html").read_text()
    pictures = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", page)]
    assert {decode_picture(data).size for data in pictures} == {(480, 480)}
    assert re.search(r"strength 0\.[23]\d*", page)


@pytest.mark.parametrize(
    ("words", "named"), [(("picture.png", "-o", "pairs.html"), "--shards"), (("--shards", "absent"), "absent")]
)
def test_a_page_that_cannot_be_made_is_refused(run: Run, words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    code, _, error = run("preview", *words, "-o", "pairs.html")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert named in error


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_slider_moves_the_line_and_nothing_is_wider_than_the_window(finished: Path, tmp_path: Path) -> None:
    script = """<script>
const input = document.querySelector("input"), copy = document.querySelector("img + img");
input.value = 20;
input.dispatchEvent(new Event("input", {bubbles: true}));
document.title = [getComputedStyle(copy).clipPath, document.documentElement.scrollWidth <= innerWidth].join(" ");
</script>"""
    page = tmp_path / "page.html"
    page.write_text(render_pairs(finished)[0].replace("</html>", script))
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    command = [str(BROWSER), *options, "--window-size=500,800", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>inset(0px 0px 0px 20%) true</title>" in dom
