from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stylize.console import InputError
from stylize.jobs.estimate import PROBED_SIDE, estimate_run, size_advice
from stylize.jobs.job import Job
from stylize.jobs.run import make_shards
from stylize.networks.stylizer import Pixels, Stylizer

JobMaker = Callable[..., Job]


def tree(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("limit", "styles_per_image"), [(None, 1), (9, 2)])
def test_shards_and_bytes_are_those_of_the_run(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, limit: int | None, styles_per_image: int
) -> None:
    job = make_job(class_folders, samples_per_shard=5, limit=limit, styles_per_image=styles_per_image)
    before = tree(tmp_path)
    estimate = estimate_run(job, tmp_path / "absent" / "out")
    assert tree(tmp_path) == before
    manifest = make_shards(job, tmp_path / "out")
    assert estimate.shards == len(manifest.shards)
    assert estimate.images == manifest.images
    marks = 10_240 * len(manifest.shards)  # the end mark of a tar, padded to a record
    total = sum(shard.bytes for shard in manifest.shards)
    assert total - marks <= estimate.bytes * 1.1
    assert estimate.bytes * 0.9 <= total
    assert 0 < estimate.seconds < 600
    assert estimate.free > 0


def test_bytes_are_extrapolated_from_the_probe(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(class_folders)
    whole = estimate_run(job, tmp_path)
    monkeypatch.setattr("stylize.jobs.estimate.PROBED_IMAGES", 2)
    assert estimate_run(job, tmp_path).bytes == pytest.approx(whole.bytes, rel=0.2)


def test_every_stream_is_probed(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(class_folders, size=16)
    batches: list[int] = []
    stylize = Stylizer.__call__

    def record(stylizer: Stylizer, pictures: Pixels, *options: Any) -> Pixels:
        batches.append(len(pictures))
        return stylize(stylizer, pictures, *options)

    monkeypatch.setattr("stylize.jobs.estimate.PROBED_IMAGES", 1)
    monkeypatch.setattr(Stylizer, "streams", 3)
    monkeypatch.setattr(job.stylizer, "batch_pixels", 2 * 16 * 16)
    monkeypatch.setattr(Stylizer, "__call__", record)
    estimate_run(job, tmp_path)
    assert batches == [2] * 6  # the first three warm up


def test_a_probe_without_a_usable_image_is_an_error(make_job: JobMaker, class_folders: Path, tmp_path: Path) -> None:
    broken = sorted(class_folders.glob("train/*/*.png"))
    for path in broken[1:]:
        path.write_bytes(b"<html>")
    assert estimate_run(make_job(class_folders), tmp_path).images == 16
    broken[0].write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"12 images of train .*first: train/"):
        estimate_run(make_job(class_folders), tmp_path)


@pytest.fixture
def stylized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of what is stylized: in no time, each picture to its negative."""
    shapes: list[tuple[int, ...]] = []

    def invert(_stylizer: Stylizer, pictures: Pixels, *_options: Any) -> Pixels:
        shapes.append(pictures.shape)
        return 255 - pictures

    monkeypatch.setattr(Stylizer, "__call__", invert)
    return shapes


@pytest.fixture
def large_pictures(tmp_path: Path, encode: Callable[..., bytes], noise: Callable[..., Pixels]) -> Path:
    for split in ("train", "test"):
        for index, (height, width) in enumerate(((1500, 2000), (1200, 1000), (600, 500))):
            path = tmp_path / "photos" / split / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(noise(index, height, width), "JPEG", quality=95, subsampling=0))
    return tmp_path / "photos"


def test_parts_of_large_pictures_tell_of_the_whole(
    make_job: JobMaker, large_pictures: Path, tmp_path: Path, stylized: list[tuple[int, ...]]
) -> None:
    job = make_job(large_pictures)
    estimate = estimate_run(job, tmp_path)
    assert max(max(shape[1:]) for shape in stylized) == PROBED_SIDE
    manifest = make_shards(job, tmp_path / "out")
    assert estimate.bytes == pytest.approx(sum(shard.bytes for shard in manifest.shards), rel=0.15)


def test_a_probe_ends_when_its_time_is_over(
    make_job: JobMaker,
    large_pictures: Path,
    tmp_path: Path,
    stylized: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stylize.jobs.estimate.READ_SECONDS", 0.0)
    assert estimate_run(make_job(large_pictures), tmp_path).images == 6
    assert len(stylized) == 2  # one picture to warm up, one to measure


def test_pictures_that_take_long_are_announced_with_what_would_help(
    make_job: JobMaker, large_pictures: Path, stylized: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(ticks) * 512 * 512 / 1e6)  # a second for a million pixels
    advice = size_advice(make_job(large_pictures)) or ""
    assert "2000×1500 pixels" in advice
    assert "3.0 s" in advice
    assert "2.9 GB" in advice  # 700 bytes a pixel in float32, and the networks
    assert {"--work-size", "--size"} <= set(advice.split())
    assert size_advice(make_job(large_pictures, size=512)) is None
    assert size_advice(make_job(large_pictures, work_size=512)) is None
    assert size_advice(make_job(large_pictures, transfer="colours")) is None
