import hashlib
import io
import itertools
import json
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylize.console import InputError
from stylize.jobs.job import Job, open_job
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions
from stylize.networks.stylizer import Pixels, Stylizer
from stylize.shards import Sample, read_shard, write_shard
from stylize.shards.manifest import read_manifest, write_manifest
from stylize.shards.verify import verify_shards
from tests.commands import PYTHON
from tests.stylize.jobs.contents import contents

JobMaker = Callable[..., Job]
KINDS = ("idx", "sha256", "tar")
Noise = Callable[..., Pixels]
Encode = Callable[..., bytes]


def samples(folder: Path, split: str) -> list[Sample]:
    return [sample for path in read_manifest(folder).paths(folder, split) for sample in read_shard(path)]


def pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def stop_at(call: int) -> Callable[[int], None]:
    """Return a report function that interrupts the run when it is called for the given time, and after."""
    calls = itertools.count(1)

    def report(_images: int) -> None:
        if next(calls) >= call:
            raise KeyboardInterrupt

    return report


def staging(out: Path) -> Path:
    (folder,) = (out.parent / ".staging").glob("*/")
    return folder


def test_another_run_gives_the_same_bytes(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    make_shards(finished_job, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)
    names = [f"{stem}.{kind}" for stem in ("test-000000", *(f"train-00000{n}" for n in range(3))) for kind in KINDS]
    others = [
        f"{kind}-{split}.{suffix}"
        for kind, suffix in (("index", "npy"), ("wids", "json"))
        for split in ("test", "train")
    ]
    assert sorted(contents(finished)) == sorted(["README.md", "croissant.json", "manifest.json", *names, *others])


@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_interrupted_run_goes_on(finished_job: Job, finished: Path, tmp_path: Path, call: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        make_shards(finished_job, out, report=stop_at(call))
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))
    whole = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".staging/*/shards/*")}
    assert len(whole) == call - 1
    reported: list[int] = []
    make_shards(finished_job, out, report=reported.append)
    assert contents(out) == contents(finished)
    assert {name: (out / name).stat().st_mtime_ns for name in whole} == whole
    assert sum(reported) == 16
    assert not list((tmp_path / ".staging").glob("*/"))


def test_a_killed_process_leaves_work_that_goes_on(
    class_folders: Path, tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os, signal, sys, time
from pathlib import Path
import stylize.jobs.spec
from stylize import ShardOptions, make_shards, open_job
stylize.jobs.spec.SAMPLES_PER_SHARD = 2
images = 0
def report(count):
    global images
    images += count
    if images == 4:  # in the second shard to come so far, while the first is on its way to the disk
        while not list(Path(sys.argv[2]).parent.glob(".staging/*/receipts/*.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
options = ShardOptions(style=("dots",), data=sys.argv[1], size=16, limit=4, dtype="float32")
make_shards(open_job(options), Path(sys.argv[2]), report=report)
"""
    out = tmp_path / "killed" / "out"
    process = subprocess.run([commands / PYTHON, "-c", code, class_folders, out], check=False, timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(staging(out).glob("shards/*.part"))
    monkeypatch.setattr("stylize.jobs.spec.SAMPLES_PER_SHARD", 2)
    options = ShardOptions(style=("dots",), data=str(class_folders), size=16, limit=4, dtype="float32")
    job = open_job(options)
    before = {path.name: path.read_bytes() for path in staging(out).glob("shards/*.tar")}
    make_shards(job, out)
    make_shards(job, tmp_path / "whole" / "out")
    assert contents(out) == contents(tmp_path / "whole" / "out")
    assert before
    assert before.items() <= contents(out).items()


def test_an_unreadable_receipt_is_work_not_done(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        make_shards(finished_job, out, report=stop_at(3))
    receipts = sorted(staging(out).glob("receipts/*.json"))
    receipts[0].write_text("")
    (staging(out) / "shards" / receipts[1].stem).unlink()
    make_shards(finished_job, out)
    assert contents(out) == contents(finished)


def test_a_finished_folder_is_left_alone(finished_job: Job, copied: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
    reported: list[int] = []
    assert make_shards(finished_job, copied, report=reported.append) == read_manifest(copied)
    assert {path: path.stat().st_mtime_ns for path in copied.iterdir()} == before
    assert not reported


def test_an_empty_folder_is_filled(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make_shards(finished_job, tmp_path / "link")
    assert contents(tmp_path / "real") == contents(finished)


def test_other_options_do_not_mix(
    make_job: JobMaker, class_folders: Path, finished_job: Job, copied: Path, tmp_path: Path
) -> None:
    before = contents(copied)
    other = make_job(class_folders, samples_per_shard=5, alpha=0.5)
    with pytest.raises(InputError, match="holds shards made with other options"):
        make_shards(other, copied)
    assert contents(copied) == before
    for job in (finished_job, other):
        with pytest.raises(KeyboardInterrupt):
            make_shards(job, tmp_path / "out", report=stop_at(2))
    assert len(list((tmp_path / ".staging").glob("*/"))) == 2


def test_a_folder_or_file_of_something_else_is_left_alone(finished_job: Job, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="exists and is not a shard folder"):
            make_shards(finished_job, out)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_output_below_a_file_is_an_error(finished_job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make_shards(finished_job, tmp_path / "file" / "out")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let every write beyond a file size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with file_size_limit(10_000), pytest.raises(InputError, match="cannot be written"):
        make_shards(finished_job, out)
    assert list(tmp_path.iterdir()) == []
    make_shards(finished_job, out)
    assert contents(out) == contents(finished)


@pytest.mark.parametrize("there", ["", "data/shards", "data/shards/.staging/other"])
def test_a_run_that_finishes_nothing_leaves_no_folder(finished_job: Job, tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        make_shards(finished_job, tmp_path / "data/shards/out", report=stop_at(1))
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".gitignore") == before


def test_the_options_that_differ_are_named(make_job: JobMaker, class_folders: Path, copied: Path) -> None:
    """Those that a specification knows by other names too, with both values; the others are not named."""
    other = make_job(class_folders, samples_per_shard=5, alpha=0.5, limit=3, work_size=32)
    with pytest.raises(InputError, match="other options") as caught:
        make_shards(other, copied)
    text = str(caught.value)
    assert "--alpha: 1.0, now 0.5" in text
    assert "--work-size: not set, now 32" in text
    assert "--limit: test 4, train 12, now test 3, train 3" in text
    assert not {"--style", "--size", "--seed", "--codec", "--quality"} & set(text.replace(":", " ").split())


def test_two_runs_at_once(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    def run_again(_images: int) -> None:
        with pytest.raises(InputError, match="Another run is making the same shards"):
            make_shards(finished_job, tmp_path / "out")

    make_shards(finished_job, tmp_path / "out", report=run_again)
    assert contents(tmp_path / "out") == contents(finished)


def test_a_copy_that_cannot_be_stored_is_a_failure(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, out = make_job(class_folders, codec="png"), tmp_path / "out"
    whole = make_shards(job, tmp_path / "whole")
    lost = samples(tmp_path / "whole", "train")[3]
    save = Image.Image.save

    def refuse(picture: Image.Image, target: io.BytesIO, *arguments: object, **options: object) -> None:
        if np.array_equal(np.asarray(picture), pixels(lost.styled[0])):
            raise ValueError("encoding error 6: PARTITION0_OVERFLOW")
        save(picture, target, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", refuse)
    manifest = make_shards(job, out, max_failures=1)
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["path"] == lost.metadata["source"]
    assert failure["reason"] == "copy cannot be stored as png: encoding error 6: PARTITION0_OVERFLOW"
    assert (manifest.failures, manifest.samples("train")) == (1, whole.samples("train") - 1)
    assert lost.key not in {sample.key for sample in samples(out, "train")}


def test_failures_are_recorded_and_cost_no_other_image(make_job: JobMaker, class_folders: Path, tmp_path: Path) -> None:
    make_shards(make_job(class_folders, codec="png"), tmp_path / "whole")
    broken = class_folders / "train/dog/003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    job, out = make_job(class_folders, codec="png"), tmp_path / "out"
    with pytest.raises(InputError, match=r"1 image .*train/dog/003\.png cannot be decoded"):
        make_shards(job, out)
    assert not out.exists()
    (record,) = [json.loads(line) for line in (staging(out) / "failures.jsonl").read_text().splitlines()]
    assert (record["split"], record["path"]) == ("train", "train/dog/003.png")
    manifest = make_shards(job, out, max_failures=1)
    assert (manifest.failures, manifest.samples("train"), manifest.samples("test")) == (1, 11, 4)
    assert json.loads((out / "failures.jsonl").read_text()) == record
    expected = [one for one in samples(tmp_path / "whole", "train") if one.metadata["source"] != "train/dog/003.png"]
    found = samples(out, "train")
    assert [one.content for one in found] == [one.content for one in expected]
    assert [one.styled for one in found] == [one.styled for one in expected]
    assert verify_shards(out) == []


def test_a_negative_number_of_failures_is_refused(finished_job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--max-failures is -1"):
        make_shards(finished_job, tmp_path / "out", max_failures=-1)


def test_samples_are_a_shuffled_permutation_with_their_provenance(finished_job: Job, finished: Path) -> None:
    for split, count in (("train", 12), ("test", 4)):
        found = samples(finished, split)
        keys = [int(sample.key) for sample in found]
        assert sorted(keys) == list(range(count))
        assert keys != sorted(keys)
        for sample in found:
            index = int(sample.key)
            source = finished_job.source
            assert sample.label == source.label(split, index)
            assert sample.metadata["source"] == source.path(split, index)
            assert (sample.metadata.get("alpha"), len(sample.styled)) == ((1.0, 1) if split == "train" else (None, 0))
            assert pixels(sample.content).shape == (32, 32, 3)


def test_metadata_name_the_sources_hash_and_the_styles(make_job: JobMaker, class_folders: Path, tmp_path: Path) -> None:
    manifest = make_shards(make_job(class_folders, styles_per_image=2, codec="png"), tmp_path / "out")
    assert manifest.styles_per_image == 2
    used = set()
    for sample in samples(tmp_path / "out", "train"):
        data = (class_folders / sample.metadata["source"]).read_bytes()
        assert sample.content == data
        assert sample.metadata["source_sha256"] == hashlib.sha256(data).hexdigest()
        digests = [hashlib.sha256(f"0:{sample.key}:{k}".encode()).digest() for k in range(2)]
        expected = [f"style{int.from_bytes(digest[:8], 'big') % 3}" for digest in digests]
        assert sample.metadata["styles"] == expected
        assert (sample.styled[0] == sample.styled[1]) == (expected[0] == expected[1])
        used |= set(expected)
    assert used == {"style0", "style1", "style2"}


def test_mixed_sizes_keep_theirs_and_work_size_changes_only_the_copies(
    make_job: JobMaker, tmp_path: Path, noise: Noise, encode: Encode
) -> None:
    sizes = [(16, 20), (24, 24), (20, 16), (24, 24)]
    for index, size in enumerate(sizes):
        for split in ("train", "test"):
            path = tmp_path / "images" / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(noise(index, *size)))
    for name, work_size in (("plain", None), ("work", 40)):
        make_shards(make_job(tmp_path / "images", codec="png", work_size=work_size), tmp_path / name)
    plain, work = samples(tmp_path / "plain", "train"), samples(tmp_path / "work", "train")
    assert sorted(pixels(sample.content).shape[:2] for sample in plain) == sorted(sizes)
    for first, second in zip(plain, work, strict=True):
        assert first.content == second.content
        assert first.styled != second.styled
        assert pixels(first.content).shape == pixels(first.styled[0]).shape == pixels(second.styled[0]).shape
    assert verify_shards(tmp_path / "work") == []


def test_alpha_0_ignores_the_style(make_job: JobMaker, stylizer: Stylizer, class_folders: Path, tmp_path: Path) -> None:
    job = make_job(class_folders, alpha=0.0, styles_per_image=3, limit=2, codec="png", size=16)
    make_shards(job, tmp_path / "out")
    found = samples(tmp_path / "out", "train")
    assert len(found) == 2
    for sample in found:
        copies = [pixels(data).astype(int) for data in sample.styled]
        reconstructed = stylizer(pixels(sample.content)[None], [0], 0.0)[0].astype(int)
        assert max(np.abs(copy - reconstructed).max() for copy in copies) <= 1


def test_strengths_of_a_range_are_drawn_recorded_and_used(
    make_job: JobMaker, stylizer: Stylizer, class_folders: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make_shards(make_job(class_folders, alpha="0.2:0.9", styles_per_image=2, limit=3, codec="png"), out)
    found = samples(out, "train")
    assert len({alpha for sample in found for alpha in sample.metadata["alphas"]}) == 6
    for sample in found:
        choice = [int(name[-1]) for name in sample.metadata["styles"]]
        for style, alpha, copy in zip(choice, sample.metadata["alphas"], sample.styled, strict=True):
            alone = stylizer(pixels(sample.content)[None], [style], alpha)[0].astype(int)
            assert np.abs(pixels(copy) - alone).max() <= 1
    assert verify_shards(out) == []
    (shard,) = out.glob("train-*.tar")
    first, *others = found
    write_shard(shard, [replace(first, metadata={**first.metadata, "alphas": [0.1, 0.5]}), *others], "png")
    assert any("alphas [0.1, 0.5]" in defect for defect in verify_shards(out))


def test_a_mended_image_is_tried_again(make_job: JobMaker, class_folders: Path, tmp_path: Path) -> None:
    picture = class_folders / "train/cat/000.png"
    whole = picture.read_bytes()
    picture.write_bytes(bytes(len(whole)))  # of the same size: the folder's fingerprint does not tell
    with pytest.raises(InputError, match="1 image could not be used"):
        make_shards(make_job(class_folders), tmp_path / "out")
    picture.write_bytes(whole)
    assert make_shards(make_job(class_folders), tmp_path / "out").failures == 0


def test_a_finished_folder_with_failures_needs_to_be_accepted_again(finished_job: Job, copied: Path) -> None:
    manifest = read_manifest(copied)
    others = tuple(shard for shard in manifest.shards if shard.name != "train-000002.tar")
    assert manifest.samples("train") + manifest.samples("test") - sum(shard.samples for shard in others) == 2
    write_manifest(copied, replace(manifest, shards=others, failures=2))
    with pytest.raises(InputError, match="lacks 2 images"):
        make_shards(finished_job, copied)
    assert make_shards(finished_job, copied, max_failures=2).failures == 2
