"""The engine `ray`, on a real cluster of two nodes on this machine."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stylize.console import InputError
from stylize.jobs.ray import ShardMaker, make_shards_on_ray, places, ray_pool
from stylize.jobs.run import make_shards
from stylize.jobs.spec import plan_shards
from stylize.sources.arrays import ShapesSource
from tests.stylize.jobs.contents import contents
from tests.stylize.jobs.ray_jobs import open_small

PROJECT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Ray leaves sockets and logs open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder as the engine `local` makes it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    make_shards(open_small(), out)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster of two nodes with one CPU each, for `RAY_ADDRESS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PROJECT))  # of the workers
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


def make_on_cluster(out: Path, fault: str, report: Any = lambda images: None) -> None:
    faults = out.parent / "faults"
    faults.mkdir(exist_ok=True)
    with ray_pool(partial(open_small, faults, fault)) as pool:
        make_shards_on_ray(pool, ShapesSource(), out, report=report)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "killed", "failed once"])
def test_shards_are_those_of_one_process_whatever_happens_to_a_worker(
    cluster: Any, whole: Path, tmp_path: Path, fault: str
) -> None:
    reported: list[int] = []
    make_on_cluster(tmp_path / "out", fault, reported.append)
    assert contents(tmp_path / "out") == contents(whole)
    assert sorted(reported) == [8] * 6
    assert (tmp_path / "faults" / fault).exists() == (fault != "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging", "faults", "out"]
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == [".gitignore"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "failed",
            r"\.tar failed 3 times on the cluster \(last: ZeroDivisionError: a planted fault\): mend it, and run",
        ),
        (
            "always killed",
            r"\.tar lost its worker 5 times on the cluster \(last: its worker process has died\): look at the nodes'",
        ),
        ("differ", r"nodes would make different shards \(device: cpu \d+, cpu \d+\): use nodes of one kind"),
    ],
)
def test_what_goes_wrong_every_time_ends_in_a_sentence(cluster: Any, tmp_path: Path, fault: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_on_cluster(tmp_path / "out", fault)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_driver_loses_nothing_and_nothing_is_made_twice(cluster: Any, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "faults").mkdir()
    command = [sys.executable, "-m", "tests.stylize.jobs.ray_jobs", "make", str(tmp_path / "out"), "faults"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    driver = subprocess.Popen(command, env=environment, cwd=tmp_path)
    receipts = wait_for_receipt(tmp_path, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    staging = receipts[0].parents[1]
    time.sleep(1)  # the cluster notices and ends the driver's workers
    before = {path.stem: identity(staging / "shards" / path.stem) for path in staging.glob("receipts/*.json")}
    make_on_cluster(tmp_path / "out", "none")
    assert 1 <= len(before) < 6
    assert {name: identity(tmp_path / "out" / name) for name in before} == before
    assert contents(tmp_path / "out") == contents(whole)


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def wait_for_receipt(folder: Path, driver: "subprocess.Popen[Any]") -> list[Path]:
    while not (receipts := list(folder.glob(".staging/*/receipts/*.json"))):
        assert driver.poll() is None
        time.sleep(0.05)
    return receipts


@pytest.mark.slow
def test_a_lost_node_costs_time_alone(cluster: Any, whole: Path, tmp_path: Path) -> None:
    def lose_node(_images: int) -> None:
        if len(cluster.worker_nodes) == 1:
            cluster.remove_node(next(iter(cluster.worker_nodes)))

    make_on_cluster(tmp_path / "out", "slow", lose_node)
    assert not cluster.worker_nodes
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.slow
def test_a_lost_cluster_ends_in_a_sentence(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults/opened-2").touch()
    command = [sys.executable, "-m", "tests.stylize.jobs.ray_jobs", "make", str(tmp_path / "out"), "faults"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    driver = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_receipt(tmp_path, driver)
    cluster.shutdown()
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 2, error
    assert re.fullmatch(
        r"Error: The Ray cluster at \S+ is gone \(.*\): finished shards are kept, .*", error.splitlines()[-1]
    )


def test_a_staging_folder_that_is_another_one_is_refused(tmp_path: Path) -> None:
    plan = next(plan_shards(open_small().spec, ShapesSource()))
    with pytest.raises(InputError, match=r"node .* --out"):
        ShardMaker(open_small, tmp_path).make(plan, tmp_path, "shared-0")
    with pytest.raises(InputError, match=r"gone .*node .*No such file"):
        ShardMaker(open_small, tmp_path / "gone").open()


def test_workers_go_to_gpus_and_else_to_nodes() -> None:
    def node(alive: bool = True, **resources: float) -> dict[str, object]:
        return {"Alive": alive, "Resources": resources}

    assert places([node(CPU=8.0), node(CPU=4.0), node(), node(alive=False, CPU=2.0)]) == [
        {"num_gpus": 0, "num_cpus": 8},
        {"num_gpus": 0, "num_cpus": 4},
    ]
    assert places([node(CPU=9.0, GPU=2.0), node(CPU=64.0), node(GPU=1.0)]) == [
        {"num_gpus": 1, "num_cpus": 4},
        {"num_gpus": 1, "num_cpus": 4},
        {"num_gpus": 1, "num_cpus": 0},
    ]
    with pytest.raises(InputError, match="neither GPUs nor CPUs"):
        places([node(), node(alive=False, GPU=1.0)])


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(InputError, match="No Ray cluster at nowhere"), ray_pool(open_small):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="Ray is not installed: pip install"), ray_pool(open_small):
        pass
