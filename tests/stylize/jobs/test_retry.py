"""Mending images: what was made stays as it is, and the end is what a fresh run would have made."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.jobs.job import Job
from stylize.jobs.run import make_shards
from stylize.jobs.spec import spec_digest
from stylize.shards import read_shard
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from tests.stylize.jobs.contents import contents

JobMaker = Callable[..., Job]
BROKEN = "train/dog/003.png"


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}


def shard_of(folder: Path, source: str) -> str:
    names = [path.name for path in folder.glob("*.tar") for one in read_shard(path) if one.metadata["source"] == source]
    (name,) = names
    return name


def fresh(job: Job, folder: Path) -> dict[str, bytes]:
    make_shards(job, folder / "fresh" / "out")
    return contents(folder / "fresh" / "out")


@pytest.fixture
def make(make_job: JobMaker, class_folders: Path) -> Callable[[], Job]:
    """Return a function that makes a job of the class folders as they are now; one picture in them is broken."""
    whole = (class_folders / BROKEN).read_bytes()
    (class_folders / BROKEN).write_bytes(b"<html>")
    (class_folders.parent / "whole.png").write_bytes(whole)
    return lambda: make_job(class_folders, samples_per_shard=4)


@pytest.fixture
def out(make: Callable[[], Job], tmp_path: Path) -> Path:
    """Return a finished folder that lacks the broken picture."""
    make_shards(make(), tmp_path / "out", max_failures=1)
    return tmp_path / "out"


@pytest.fixture
def mend(class_folders: Path) -> Callable[[], object]:
    return lambda: shutil.copy(class_folders.parent / "whole.png", class_folders / BROKEN)


def test_a_mended_image_costs_its_shard_only(
    make: Callable[[], Job], out: Path, mend: Callable[[], object], tmp_path: Path
) -> None:
    before = times(out)
    mend()
    with pytest.raises(InputError, match=r"images changed.*--retry-failed"):
        make_shards(make(), out)
    manifest = make_shards(make(), out, retry_failed=True)
    assert (manifest.failures, manifest.failures_sha256) == (0, None)
    assert contents(out) == fresh(make(), tmp_path)
    assert {name for name, time in times(out).items() if before[name] != time} == {shard_of(out, BROKEN)}
    assert verify_shards(out) == []
    assert not list((tmp_path / ".staging").glob("*/"))
    after = times(out)
    make_shards(make(), out, retry_failed=True)
    assert times(out) == after


def test_images_that_still_fail_leave_the_folder_as_it_was(make: Callable[[], Job], out: Path) -> None:
    before = contents(out)
    with pytest.raises(InputError, match=r"1 image.*failures\.jsonl.*--retry-failed"):
        make_shards(make(), out)
    with pytest.raises(InputError, match="1 image could not be used"):
        make_shards(make(), out, retry_failed=True)
    assert contents(out) == before
    make_shards(make(), out, max_failures=1, retry_failed=True)
    assert contents(out) == before


def test_other_changed_images_and_damaged_shards_are_made_again_too(
    make: Callable[[], Job], out: Path, mend: Callable[[], object], class_folders: Path, tmp_path: Path
) -> None:
    before = times(out)
    changed = shard_of(out, "train/cat/000.png")
    shutil.copy(class_folders / "train/cat/002.png", class_folders / "train/cat/000.png")
    (out / "test-000000.tar").write_bytes(b"damaged")
    mend()
    make_shards(make(), out, retry_failed=True)
    assert contents(out) == fresh(make(), tmp_path)
    made = {name for name, time in times(out).items() if before[name] != time}
    assert made == {changed, shard_of(out, BROKEN), "test-000000.tar"}


def test_flags_of_kept_shards_are_kept(
    make: Callable[[], Job], mend: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.jobs.make_shard.MIN_DIFFERENCE", 255.0)
    make_shards(make(), tmp_path / "out", max_failures=1)
    mend()
    assert len(make_shards(make(), tmp_path / "out", retry_failed=True).flagged) == 12
    assert contents(tmp_path / "out") == fresh(make(), tmp_path)


@pytest.mark.parametrize("moment", ["shard", "replace", "publish"])
def test_an_interrupted_retry_goes_on(
    make: Callable[[], Job],
    out: Path,
    mend: Callable[[], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    before = contents(out)
    mend()

    rename = Path.rename

    def report(_images: int) -> None:
        if moment == "shard":
            raise KeyboardInterrupt

    def stop_at(path: Path, target: Path) -> Path:
        if (moment == "replace" and path == out) or (moment == "publish" and target == out):
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stop_at)
        with pytest.raises(KeyboardInterrupt):
            make_shards(make(), out, report=report, retry_failed=True)
    if moment == "publish":
        assert not out.exists()
    else:
        assert contents(out) == before
    make_shards(make(), out, retry_failed=moment != "publish")
    assert contents(out) == fresh(make(), tmp_path)
    assert not list((tmp_path / ".staging").glob("*/"))


def test_an_unfinished_run_keeps_its_shards_when_an_image_is_mended(
    make: Callable[[], Job], mend: Callable[[], object], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="1 image could not be used"):
        make_shards(make(), tmp_path / "out")
    (staged,) = (tmp_path / ".staging").glob("*/shards")
    before = times(staged)
    mend()
    make_shards(make(), tmp_path / "out")
    assert contents(tmp_path / "out") == fresh(make(), tmp_path)
    changed = {name for name, time in times(tmp_path / "out").items() if before[name] != time}
    assert changed == {shard_of(tmp_path / "out", BROKEN)}


def test_accepting_failures_makes_no_shard_again(
    make: Callable[[], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="--max-failures 1;"):
        make_shards(make(), tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.delattr("stylize.jobs.run.make_shard")
        manifest = make_shards(make(), tmp_path / "out", max_failures=1)
    assert manifest.failures == 1
    make_shards(make(), tmp_path / "fresh" / "out", max_failures=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh" / "out")


def test_images_changed_back_between_two_retries_are_made_again(
    make: Callable[[], Job], out: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = class_folders / "train/cat/000.png"
    original = image.read_bytes()
    shutil.copy(class_folders / "train/cat/002.png", image)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stylize.jobs.output.publish", stop)
        with pytest.raises(KeyboardInterrupt):
            make_shards(make(), out, max_failures=1, retry_failed=True)
    image.write_bytes(original)
    before = contents(out)
    make_shards(make(), out, max_failures=1, retry_failed=True)
    assert contents(out) == before


def test_an_image_of_another_class_is_not_taken_for_the_same(
    make: Callable[[], Job], mend: Callable[[], object], class_folders: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="1 image could not be used"):
        make_shards(make(), tmp_path / "out")
    mend()
    (class_folders / "train/cat/010.png").rename(class_folders / "train/dog/000.png")
    make_shards(make(), tmp_path / "out")
    assert contents(tmp_path / "out") == fresh(make(), tmp_path)


def test_what_a_run_killed_after_publishing_left_is_cleared(finished_job: Job, copied: Path) -> None:
    staging = copied.parent / ".staging" / spec_digest(finished_job.spec.document())[:16]
    (staging / "replaced").mkdir(parents=True)
    before = contents(copied)
    make_shards(finished_job, copied)
    assert (contents(copied), staging.exists()) == (before, False)


def test_a_run_that_another_has_overtaken_says_so(
    finished_job: Job, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / ".staging" / spec_digest(finished_job.spec.document())[:16]
    monkeypatch.setattr("fcntl.flock", lambda *_: shutil.rmtree(staging))
    with pytest.raises(InputError, match="Another run has just ended"):
        make_shards(finished_job, tmp_path / "out")
    monkeypatch.setattr("fcntl.flock", lambda *_: shutil.copytree(finished, tmp_path / "out"))
    reported: list[int] = []
    assert make_shards(finished_job, tmp_path / "out", report=reported.append) == read_manifest(finished)
    assert not reported


def test_the_fingerprint_alone_does_not_tell_specifications_apart(finished_job: Job) -> None:
    spec = finished_job.spec
    other = replace(spec, source_fingerprint="other")
    assert spec_digest(other.document()) == spec_digest(spec.document())


def test_hard_links_are_not_needed(
    make: Callable[[], Job], out: Path, mend: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    mend()
    make_shards(make(), out, retry_failed=True)
    assert contents(out) == fresh(make(), tmp_path)
