import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stylize.engine.engine import Engine
from stylize.runs.job import Job
from stylize.runs.run import make_shards
from stylize.runs.workers import start_workers


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


@pytest.mark.parametrize(
    ("options", "streams"),
    [({"size": 64}, 3), ({"size": 64, "work_size": 600}, 1), ({"size": 600}, 1), ({}, 1), ({"work_size": 64}, 1)],
)
def test_pictures_that_may_be_large_are_not_stylized_side_by_side(
    make_job: Callable[..., Job],
    class_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, int],
    streams: int,
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    job = make_job(class_folders, **options)
    assert job.streams == (streams if job.engine.device.type == "cpu" else 1)


def test_reports_do_not_overlap(finished_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "streams", lambda _engine, _side: 3)
    at_work: list[int] = []
    done = []

    def report(images: int) -> None:
        assert not at_work
        at_work.append(images)
        time.sleep(0.05)
        done.append(at_work.pop())

    make_shards(finished_job, tmp_path / "out", report=report)
    assert sum(done) == 16
