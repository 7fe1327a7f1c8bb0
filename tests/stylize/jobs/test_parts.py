"""Parts of a job, made by processes of their own, and what joins them."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.jobs.job import Job
from stylize.jobs.run import Part, make_part, make_shards, parse_part, publish_parts
from stylize.shards.manifest import read_manifest
from tests.commands import PYTHON
from tests.stylize.jobs.contents import contents

JobMaker = Callable[..., Job]
Run = Callable[..., tuple[int, str, str]]


def test_parts_made_by_processes_at_once_are_the_whole(commands: Path, tmp_path: Path) -> None:
    program = "import runpy; runpy.run_module('tests.stylize.jobs.fork_parts', run_name='__main__')"
    command = [str(commands / PYTHON), "-c", program, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert report["killed"] == -9
    assert report["too_early"] == 2
    assert "are missing (first: train-000000.tar): run the parts again" in report["early"]
    assert report["parts"] == [0] * 8, report["said"]
    assert "part 3/4 is finished, 3 shards; then: stylize publish" in report["said"]
    assert 0 in report["publishers"]
    assert set(report["publishers"]) <= {0, 2}
    assert report["again"] == [0, 0]
    assert set(report["made"].values()) == {1}
    assert len(report["made"]) == 12
    assert report["equal"]
    assert [name for name in report["remains"] if name not in ("early", "end", "log")] == [
        ".gitignore",
        ".staging",
        "out",
    ]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_parts_of_any_number_are_the_whole(finished_job: Job, finished: Path, tmp_path: Path, count: int) -> None:
    out = tmp_path / "out"
    reported: list[int] = []
    parts = [Part(number, count) for number in range(count, 0, -1)]
    assert sum(make_part(finished_job, out, part, report=reported.append) for part in parts) == 4
    assert sum(part.images(finished_job.spec) for part in parts) == sum(reported) == 16
    manifest = publish_parts(out)
    assert contents(out) == contents(finished)
    assert manifest == publish_parts(out) == read_manifest(finished)
    assert make_part(finished_job, out, Part(1, 1)) == 4


def test_a_part_advises_on_small_images_until_it_is_published(finished_job: Job, tmp_path: Path) -> None:
    said: list[str] = []
    for part in (Part(1, 1), Part(1, 1)):
        make_part(finished_job, tmp_path / "out", part, notice=said.append)
        publish_parts(tmp_path / "out")
    assert len(said) == 1
    assert "at their own size leaves little of their shapes" in said[0]


def test_who_comes_after_the_publisher_leaves_nothing_behind(finished_job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_part(finished_job, out, Part(1, 1))
    (staging,) = (tmp_path / ".staging").glob("*/")
    record = (staging / "job.json").read_bytes()
    manifest = publish_parts(out)
    assert not staging.exists()
    staging.mkdir()
    (staging / "job.json").write_bytes(record)
    assert publish_parts(out) == manifest
    assert not staging.exists()


def test_a_whole_run_goes_on_from_parts_and_parts_from_a_run(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_part(finished_job, out, Part(1, 2))
    (staging,) = (tmp_path / ".staging").glob("*/")
    before = {path.name: path.stat().st_mtime_ns for path in staging.glob("shards/*")}
    make_shards(finished_job, out)
    assert len(before) == 2
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert contents(out) == contents(finished)


def test_parts_and_a_whole_run_exclude_each_other(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def whole_run(_images: int) -> None:
        with pytest.raises(InputError, match="Another run is making the same shards"):
            make_shards(finished_job, out)
        with pytest.raises(InputError, match="Another run is making the same shards"):
            publish_parts(out)

    def part(_images: int) -> None:
        with pytest.raises(InputError, match="Another run is making the same shards"):
            make_part(finished_job, out, Part(1, 2))

    make_part(finished_job, out, Part(1, 2), report=whole_run)
    make_shards(finished_job, out, report=part)
    assert contents(out) == contents(finished)


def test_images_that_cannot_be_used_count_in_their_part_and_in_all(
    make_job: JobMaker, class_folders: Path, tmp_path: Path
) -> None:
    (class_folders / "train/dog/003.png").write_bytes(b"<html>")
    job, out = make_job(class_folders, samples_per_shard=4), tmp_path / "out"
    refusals = []
    for number in (1, 2, 3):
        try:
            make_part(job, out, Part(number, 3))
        except InputError as error:
            refusals.append(str(error))
    (refusal,) = refusals
    assert "1 image could not be used (first: train/dog/003.png" in refusal
    assert "accept with --max-failures 1; finished shards are kept" in refusal
    with pytest.raises(InputError, match="1 image could not be used"):
        publish_parts(out)
    assert publish_parts(out, max_failures=1).failures == 1
    make_shards(job, tmp_path / "whole", max_failures=1)
    assert contents(out) == contents(tmp_path / "whole")


def test_parts_of_different_jobs_do_not_go_together(make_job: JobMaker, class_folders: Path, tmp_path: Path) -> None:
    job, out = make_job(class_folders), tmp_path / "out"
    make_part(job, out, Part(1, 2))
    other = replace(job, spec=replace(job.spec, device="cpu OTHER"))
    make_part(other, out, Part(2, 2))
    with pytest.raises(InputError, match=r"2 jobs.*\(device: cpu \w+, cpu \w+\)"):
        publish_parts(out)
    make_part(make_job(class_folders, transfer="both"), tmp_path / "both", Part(1, 2))
    make_part(make_job(class_folders), tmp_path / "both", Part(2, 2))
    with pytest.raises(InputError, match=r"differ \(transfer: (both, None|None, both)\)"):
        publish_parts(tmp_path / "both")
    with pytest.raises(InputError, match="stylize shards --only 1/N"):
        publish_parts(tmp_path / "nowhere")


def test_images_that_changed_between_parts_are_not_mixed(
    make_job: JobMaker, class_folders: Path, tmp_path: Path, encode: Callable[..., bytes], noise: Callable[..., object]
) -> None:
    out = tmp_path / "out"
    make_part(make_job(class_folders, samples_per_shard=4), out, Part(1, 2))
    (class_folders / "train/cat/000.png").write_bytes(encode(noise(99, 40, 40)))
    changed = make_job(class_folders, samples_per_shard=4)
    make_part(changed, out, Part(2, 2))
    with pytest.raises(InputError, match=r"2 shards of 4 are missing"):
        publish_parts(out)
    make_part(changed, out, Part(1, 2))
    publish_parts(out)
    make_shards(changed, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_damaged_folder_is_not_mended_in_parts(finished_job: Job, copied: Path) -> None:
    (copied / "train-000001.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"copied .*train-000001.tar.*without --only"):
        make_part(finished_job, copied, Part(1, 2))


@pytest.mark.parametrize("text", ["", "3", "/", "0/4", "5/4", "1/0", "-1/4", "1/4/4", "a/b", "1.0/4"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--only is"):
        parse_part(text)


def test_the_command_line_refuses_to_retry_in_parts(run: Run) -> None:
    code, _, error = run("shards", "--data", "shapes", "--only", "1/2", "--retry-failed")
    assert (code, "give it without --only" in error) == (2, True)
    code, _, error = run("publish", "nothing")
    assert (code, "has no parts to publish" in error) == (2, True)
