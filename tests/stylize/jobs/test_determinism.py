"""The same specification gives the same bytes, in whatever order its shards are made."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.jobs.job import Job
from stylize.jobs.make_shard import make_shard, start_workers
from stylize.jobs.run import make_shards
from stylize.jobs.spec import plan_shards
from stylize.networks.stylizer import Stylizer
from stylize.shards.manifest import read_manifest
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
