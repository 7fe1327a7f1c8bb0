"""Shards made by a process a device; the devices are CPUs here."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stylize.console import InputError
from stylize.jobs import run
from stylize.jobs.devices import make_on_devices
from stylize.jobs.job import Job
from stylize.jobs.run import make_here, make_locally, run_job
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
    make_all = partial(make_on_devices, make_here, job, ["cpu", "cpu"], reported.append)
    run_job(job.spec, job.source, make_all, tmp_path / "out", 0, False, lambda _: None, lambda: None)
    assert contents(tmp_path / "out") == contents(finished)
    assert sum(reported) == 16


@pytest.mark.parametrize(("fault", "named"), [(differing, "cpu would make other shards"), (dying, "cpu ended early")])
def test_what_is_wrong_in_a_process_is_one_sentence(
    finished_job: Job, tmp_path: Path, fault: Callable[[Job, str], Job], named: str
) -> None:
    job = replace(finished_job, reopen=partial(fault, finished_job))
    with pytest.raises(InputError, match=named):
        make_on_devices(make_here, job, ["cpu"], lambda _: None, tmp_path, [])


def test_all_gpus_of_a_kind_are_used_and_a_cpu_is_not_split(
    finished_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["A", "B", "A"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_name", kinds.__getitem__)
    used: list[str] = []

    def note(_make: object, _job: Job, devices: list[str], *_: object) -> list[object]:
        used.extend(devices)
        return []

    monkeypatch.setattr(run, "make_on_devices", note)
    job = replace(finished_job, reopen=partial(same, finished_job))
    assert make_locally(job, lambda _: None, tmp_path, []) == []
    assert used == []
    on_gpu: Job = replace(job, stylizer=SimpleNamespace(device=torch.device("cuda")))  # type: ignore[arg-type]
    assert make_locally(on_gpu, lambda _: None, tmp_path, []) == []
    assert used == ["cuda:0", "cuda:2"]
