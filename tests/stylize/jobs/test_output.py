"""The output folder: a place that is taken, odd, full, or hard to leave."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.jobs.job import Job
from stylize.jobs.run import make_shards
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from tests.commands import PYTHON
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


Remount = Callable[[str], None]


def mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)):
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def remount(disk: Path) -> Remount:
    """Return a function that gives the disk other mount options."""

    def change(options: str) -> None:
        assert mount("-o", f"remount,{options}", str(disk))

    return change


def test_a_disk_that_fills_up_anywhere_costs_no_finished_shard(
    disk: Path, remount: Remount, finished_job: Job, finished: Path
) -> None:
    whole, out = contents(finished), disk / "out"
    refusals: list[str] = []
    kilobytes, most_staged = 4, 0
    while not out.exists():
        remount(f"size={kilobytes}k")
        kilobytes += 8
        try:
            make_shards(finished_job, out)
        except InputError as error:
            refusals.append(str(error))
        assert not list(disk.rglob("*.part"))
        staged = {path.name: path.read_bytes() for path in disk.glob(".staging/*/shards/*.tar")}
        assert staged.items() <= whole.items()
        assert len(staged) >= most_staged or out.exists()
        most_staged = len(staged)
    assert len(refusals) > 4
    assert all("cannot be written (No space left on device)" in refusal for refusal in refusals)
    assert contents(out) == whole


def test_a_read_only_disk_is_named_and_its_shards_can_be_used(
    disk: Path, remount: Remount, finished_job: Job, make_job: Callable[..., Job], class_folders: Path
) -> None:
    remount("size=1m")
    manifest = make_shards(finished_job, disk / "out")
    remount("ro")
    with pytest.raises(InputError, match=r"Read-only file system.*--out"):
        make_shards(make_job(class_folders), disk / "other")
    assert make_shards(finished_job, disk / "out") == manifest == read_manifest(disk / "out")
    assert verify_shards(disk / "out") == []
    assert sorted(path.name for path in disk.iterdir()) == [".staging", "out"]


def test_a_disk_that_fills_up_in_the_middle_of_shards_ends_the_run(tmp_path: Path, commands: Path) -> None:
    """In a process of its own, because what this found was a run that never ended."""
    code = """
import resource, signal, sys
from pathlib import Path
import torch
import stylize.jobs.make_shard, stylize.jobs.spec
from stylize import ShardOptions, make_shards, open_job
torch.set_num_threads(1)
stylize.jobs.spec.SAMPLES_PER_SHARD, stylize.jobs.make_shard.CHUNK_IMAGES = 500, 20
invert = "tests.stylize.jobs.own_stylizers:invert"
job = open_job(ShardOptions(stylizer=invert, data="shapes", size=16, limit=1500))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
make_shards(job, Path(sys.argv[1]))
"""
    command = [str(commands / PYTHON), "-c", code, str(tmp_path / "out")]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert process.returncode == 1
    assert "cannot be written (File too large): make room" in process.stderr
    assert not list(tmp_path.rglob("*.part"))
