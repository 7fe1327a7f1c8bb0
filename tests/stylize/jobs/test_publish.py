"""The last step of a run, into a place that is taken, odd, or hard to leave."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.jobs.job import Job
from stylize.jobs.run import make_shards
from stylize.shards.manifest import read_manifest
from tests.stylize.jobs.contents import contents

JobMaker = Callable[..., Job]
TOO_LONG = "x" * 300  # for a file's name


def test_shards_that_another_run_published_meanwhile_are_not_replaced(
    make_job: JobMaker, class_folders: Path, finished: Path, tmp_path: Path
) -> None:
    job, out = make_job(class_folders, alpha=0.5), tmp_path / "out"

    def publish_others(_images: int) -> None:
        if not out.exists():
            shutil.copytree(finished, out)

    with pytest.raises(InputError, match="out cannot be written"):
        make_shards(job, out, report=publish_others)
    with pytest.raises(InputError, match="out holds shards made with other options"):
        make_shards(job, out)
    assert contents(out) == contents(finished)
    made = make_shards(job, tmp_path / "elsewhere", report=lambda _: None)
    assert read_manifest(tmp_path / "elsewhere") == made


def test_a_staging_folder_that_cannot_be_removed_does_no_harm(
    finished_job: Job, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # as NFS does, where an open file lies in the folder
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr("os.rmdir", refuse)
    for _ in range(2):
        make_shards(finished_job, tmp_path / "out")
        assert contents(tmp_path / "out") == contents(finished)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"is damaged \(Expecting value: line 1 column 1 \(char 0\)\)"),
        ("[]", r"is damaged \(.*\)"),
        ('{"format_version": 9}', "has format version 9; this program reads version 1"),
    ],
)
def test_a_damaged_manifest_of_its_own_is_refused_with_the_whole_reason(
    finished_job: Job, finished: Path, tmp_path: Path, text: str, reason: str
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text(text)
    with pytest.raises(InputError, match=f"out cannot be taken as finished, .*manifest.json {reason}: fetch it again"):
        make_shards(finished_job, tmp_path / "out")


def test_a_mount_point_is_refused_before_any_work(finished_job: Job) -> None:
    with pytest.raises(InputError, match="/ is a mount point: give a folder in it"):
        make_shards(finished_job, Path("/"))


def test_an_impossible_place_is_refused(finished_job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read.*give another --out"):
        make_shards(finished_job, tmp_path / TOO_LONG)


def test_a_file_system_without_locks_is_refused(
    finished_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=r"out cannot be written .*lock"):
        make_shards(finished_job, tmp_path / "out")


def test_an_edited_card_stays_where_shards_are_made_again(finished_job: Job, finished: Path, copied: Path) -> None:
    (copied / "README.md").write_text("mine")
    (copied / "train-000000.tar").unlink()
    make_shards(finished_job, copied)
    assert contents(copied) == {**contents(finished), "README.md": b"mine"}
