"""One shard: its bytes whatever the order and the threads, and what is flagged in it."""

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylize.cli.tools import counts_line, warning_lines
from stylize.jobs.estimate import small_images_note
from stylize.jobs.job import Job
from stylize.jobs.make_shard import flag_copies, make_shard, start_workers
from stylize.jobs.run import make_shards
from stylize.jobs.spec import plan_shards
from stylize.networks.stylizer import Pixels, Stylizer
from stylize.shards.manifest import Flag, Manifest, read_manifest
from stylize.shards.verify import verify_shards

JobMaker = Callable[..., Job]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_the_order_of_shards_does_not_matter(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    plans = list(plan_shards(finished_job.spec, finished_job.source))
    with start_workers(finished_job.stylizer.streams) as workers:
        receipts = [make_shard(finished_job, plan, tmp_path, lambda _images: None, workers) for plan in reversed(plans)]
    assert shards(tmp_path) == shards(finished)
    assert tuple(receipt.shard for receipt in reversed(receipts)) == read_manifest(finished).shards


@pytest.mark.parametrize("streams", [1, 3])
def test_the_number_of_streams_does_not_matter(
    finished_job: Job, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    monkeypatch.setattr(Stylizer, "streams", streams)
    make_shards(finished_job, tmp_path / "out")
    assert shards(tmp_path / "out") == shards(finished)


def test_bytes_of_another_machine_pass_and_say_what_made_them(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another CPU or type of numbers gives other bytes: the manifest names it, and `verify` looks at the files only."""
    monkeypatch.setattr(stylizer, "batch_pixels", 7)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "another CPU")
    make_shards(make_job(class_folders), tmp_path / "out")
    spec = read_manifest(tmp_path / "out").spec
    assert (spec["device"], spec["batch_pixels"]) == ("cpu another CPU", 7)
    monkeypatch.undo()
    assert verify_shards(tmp_path / "out") == []


@pytest.mark.parametrize(("threads", "streams", "share"), [(4, 2, 2), (3, 3, 1), (2, 3, 1), (3, 1, 3)])
def test_streams_share_the_threads_and_leave_them_as_they_were(threads: int, streams: int, share: int) -> None:
    before, frozen = torch.get_num_threads(), gc.get_freeze_count()
    torch.set_num_threads(threads)
    try:
        with start_workers(streams) as workers:
            found = [workers.network.submit(torch.get_num_threads) for _ in range(2 * streams)]
            assert {one.result() for one in found} == {share}
        assert torch.get_num_threads() == threads
        with start_workers(1) as workers:
            assert workers.network.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert gc.get_freeze_count() == frozen


def test_large_pictures_have_all_threads_one_at_a_time(
    make_job: Callable[..., Job], class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the pictures count as large; these never meet, and each meets its stream's threads as they were."""
    job = make_job(class_folders, size=16)
    threads, at_work, met = torch.get_num_threads(), [], []
    stylize = Stylizer.__call__

    def record(stylizer: Stylizer, pictures: Pixels, *options: Any) -> Pixels:
        large = torch.get_num_threads() == 4
        at_work.append(large)
        time.sleep(0.01)
        met.append((large, at_work.count(True)))
        at_work.remove(large)
        return stylize(stylizer, pictures, *options)

    torch.set_num_threads(4)
    try:
        monkeypatch.setattr(Stylizer, "streams", 2)
        monkeypatch.setattr(job.stylizer, "batch_pixels", 16 * 16)
        answers = itertools.cycle([True, False])
        monkeypatch.setattr(Stylizer, "is_large", lambda *_: next(answers))
        monkeypatch.setattr(Stylizer, "__call__", record)
        make_shards(job, tmp_path / "out")
    finally:
        torch.set_num_threads(threads)
    assert {large for large, _ in met} == {True, False}
    assert max(count for _, count in met) == 1


def test_reports_do_not_overlap(finished_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stylizer, "streams", 3)
    at_work: list[int] = []
    done = []

    def report(images: int) -> None:
        assert not at_work
        at_work.append(images)
        time.sleep(0.05)
        done.append(at_work.pop())

    make_shards(finished_job, tmp_path / "out", report=report)
    assert sum(done) == 16


Noise = Callable[..., Pixels]


def flat(value: int) -> Pixels:
    return np.full((16, 20, 3), value, np.uint8)


def stripes(low: int, high: int) -> Pixels:
    """Return pixels of which every other column is `low` or `high`: their deviation is half the difference."""
    pixels = flat(low)
    pixels[:, ::2] = high
    return pixels


@pytest.mark.parametrize(
    ("content", "copy", "reason"),
    [
        (stripes(0, 200), stripes(2, 202), "copy 0 is nearly its content (difference 2.0 of 255)"),
        (stripes(0, 200), stripes(0, 200), "copy 0 is nearly its content (difference 0.0 of 255)"),
        (stripes(0, 200), stripes(3, 203), None),
        (stripes(255, 0), stripes(0, 255), None),
        (stripes(0, 200), stripes(100, 104), "copy 0 is nearly constant (std 2.0 of 255)"),
        (stripes(0, 200), stripes(100, 106), None),
        (flat(7), flat(7), "copy 0 is nearly constant (std 0.0 of 255)"),
    ],
)
def test_what_is_flagged(content: Pixels, copy: Pixels, reason: str | None) -> None:
    assert flag_copies("00000007", content, [copy]) == ([Flag("train", "00000007", reason)] if reason else [])


def test_one_varied_channel_is_enough() -> None:
    copy = flat(100)
    copy[..., 2] = stripes(0, 200)[..., 2]
    assert flag_copies("1", stripes(0, 200), [copy]) == []


def test_every_copy_is_looked_at() -> None:
    flags = flag_copies("1", stripes(0, 200), [flat(9), stripes(200, 0), stripes(0, 200)])
    assert [flag.reason[:6] for flag in flags] == ["copy 0", "copy 2"]


def test_deviation_and_difference_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    content, copy = np.random.default_rng(0).integers(0, 256, (2, 24, 17, 3), dtype=np.uint8)
    copy[..., 1] //= 3
    monkeypatch.setattr("stylize.jobs.make_shard.MIN_DIFFERENCE", 255.0)
    (near,) = flag_copies("1", content, [copy])
    assert f"(difference {np.abs(copy.astype(int) - content).mean():.1f} of 255)" in near.reason
    monkeypatch.setattr("stylize.jobs.make_shard.MIN_STD", 255.0)
    (flat,) = flag_copies("1", content, [copy])
    assert f"(std {copy.std(axis=(0, 1)).max():.1f} of 255)" in flat.reason


def test_flags_reach_the_manifest_also_after_an_interruption(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (class_folders / "test/cat/000.png").write_bytes((class_folders / "train/dog/003.png").read_bytes())
    job = make_job(class_folders, samples_per_shard=5)
    monkeypatch.setattr("stylize.jobs.make_shard.MIN_DIFFERENCE", 255.0)  # every copy is near its content
    calls = iter(range(10))

    def stop(_images: int) -> None:
        if next(calls) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards(job, tmp_path / "out", report=stop)
    manifest = make_shards(job, tmp_path / "out")
    assert manifest == read_manifest(tmp_path / "out")
    flagged = {(flag.split, flag.key) for flag in manifest.flagged}
    (repeated,) = (flag for flag in manifest.flagged if flag.split == "test")
    assert job.source.path("test", int(repeated.key)) == "test/cat/000.png"
    assert flagged == {("test", repeated.key), *(("train", f"{index:08d}") for index in range(12))}
    assert verify_shards(tmp_path / "out") == []


def test_the_summary_names_the_first_flags_and_their_number(finished: Path) -> None:
    manifest = read_manifest(finished)
    assert list(warning_lines(replace(manifest, flagged=()))) == []
    flags = tuple(Flag("train", str(index), "is odd") for index in range(7))
    few, many = (list(warning_lines(replace(manifest, flagged=flags[:count]))) for count in (5, 7))
    assert few == [f"Warning: train {index}: is odd" for index in range(5)]
    assert many[:5] == few
    assert many[5].startswith("Warning: 7 samples look wrong")


def test_the_summary_counts(finished: Path) -> None:
    manifest: Manifest = replace(read_manifest(finished), failures=3)
    megabytes = sum(path.stat().st_size for path in finished.glob("*.tar")) / 1e6
    expected = f"12 training pairs and 4 test images in 4 shards, {megabytes:.1f} MB"
    assert counts_line(manifest) == f"{expected}; 3 images failed, see failures.jsonl"


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({}, 32),
        ({"size": 24}, 24),
        ({"size": 64}, None),
        ({"work_size": 32}, None),
        ({"transfer": "colours"}, None),
        ({"transfer": "both"}, 32),
    ],
)
def test_small_images_earn_advice(
    make_job: JobMaker, make_class_folders: Callable[..., Path], tmp_path: Path, options: dict[str, object], side: int
) -> None:
    job = make_job(make_class_folders(tmp_path / "images"), **options)
    note = small_images_note(job.spec, job.source)
    assert (note is None) == (side is None)
    assert note is None or f"images of {side} pixels" in note


def test_a_broken_first_image_earns_no_advice(make_job: JobMaker, class_folders: Path) -> None:
    job = make_job(class_folders)
    for path in class_folders.rglob("*.png"):
        path.write_bytes(b"no picture")
    assert small_images_note(job.spec, job.source) is None
