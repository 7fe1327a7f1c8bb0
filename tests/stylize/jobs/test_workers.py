import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stylize.jobs.job import Job
from stylize.jobs.make_shard import start_workers
from stylize.jobs.run import make_shards
from stylize.networks.stylizer import Pixels, Stylizer


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
