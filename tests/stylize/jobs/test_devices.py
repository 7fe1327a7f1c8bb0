"""Shards made by a process a device; the devices are CPUs here."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stylize.console import InputError
from stylize.jobs import run
from stylize.jobs.job import Job
from stylize.jobs.run import make_locally, make_on_devices, run_job, share_devices
from stylize.jobs.spec import ShardPlan, plan_shards
from tests.stylize.jobs.contents import contents


def same(job: Job, _device: str) -> Job:
    return job


def differing(job: Job, device: str) -> Job:
    return replace(job, spec=replace(job.spec, device=f"another {device}"))


def dying(_job: Job, _device: str) -> Job:
    os._exit(1)


def test_two_processes_make_the_same_shards_as_one(finished_job: Job, finished: Path, tmp_path: Path) -> None:
    reported: list[int] = []
    job = replace(finished_job, reopen=partial(same, finished_job))

    def make_all(staging: Path, plans: Iterator[ShardPlan]) -> object:
        return make_on_devices(job, ["cpu", "cpu"], reported.append, staging, list(plans))

    run_job(job.spec, job.source, make_all, tmp_path / "out", 0, False, lambda _: None, lambda: None)
    assert contents(tmp_path / "out") == contents(finished)
    assert sum(reported) == 16


@pytest.mark.parametrize(("fault", "named"), [(differing, "cpu would make other shards"), (dying, "cpu ended early")])
def test_what_is_wrong_in_a_process_is_one_sentence(
    finished_job: Job, tmp_path: Path, fault: Callable[[Job, str], Job], named: str
) -> None:
    job = replace(finished_job, reopen=partial(fault, finished_job))
    with pytest.raises(InputError, match=named):
        make_on_devices(job, ["cpu"], lambda _: None, tmp_path, [])


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_name", ["A", "B", "A"].__getitem__)


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("shards", "cores", "processes"), [(1, 64, 1), (8, 64, 2), (120, 64, 4), (120, 4, 2), (10_000, 33, 8)]
)
def test_large_jobs_have_several_processes_a_gpu(
    shards: int, cores: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    assert share_devices(shards) == (["cuda:0", "cuda:2"] * 4)[:processes]


@pytest.mark.usefixtures("three_gpus")
def test_a_job_on_a_gpu_is_split_and_one_on_a_cpu_is_not(
    finished_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def note(_job: Job, devices: list[str], *_: object) -> list[object]:
        used.extend(devices)
        return []

    monkeypatch.setattr(run, "make_on_devices", note)
    job = replace(finished_job, reopen=partial(same, finished_job))
    assert make_locally(job, lambda _: None, tmp_path, []) == []
    assert used == []
    on_gpu: Job = replace(job, stylizer=SimpleNamespace(device=torch.device("cuda")))  # type: ignore[arg-type]
    assert make_locally(on_gpu, lambda _: None, tmp_path, plan_shards(job.spec, job.source)) == []
    assert used == ["cuda:0", "cuda:2"]


def waiting(folder: Path, _device: str) -> Job:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "opened").touch()
        time.sleep(120)
    raise AssertionError("nobody ended this process")


def start(folder: Path, job: Job) -> None:
    make_on_devices(replace(job, reopen=partial(waiting, folder)), ["cpu"], lambda _: None, folder, [])


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.slow
def test_the_processes_end_with_a_parent_that_is_killed(finished_job: Job, tmp_path: Path) -> None:
    parent = get_context("spawn").Process(target=start, args=(tmp_path, finished_job))
    parent.start()
    wait_for((tmp_path / "opened").exists)
    assert not is_free(tmp_path / "lock")
    parent.kill()
    parent.join()
    wait_for(partial(is_free, tmp_path / "lock"))
