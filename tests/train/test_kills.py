"""SIGKILL at random moments, to one process and to two: the same command goes on to the same weights."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import train

KILLS = 10
OPTIONS = "--arch small --method pairing --epochs 6 --batch-size 12 --workers 1 --device cpu --save-minutes 0.02"


def start(shards: Path, out: Path, processes: int) -> list[subprocess.Popen[bytes]]:
    """Start a run's processes in a group of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started: list[subprocess.Popen[bytes]] = []
    for rank in range(processes):
        ranks = {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        command = [sys.executable, "-m", "train", "run", "--shards", str(shards), "--out", str(out), *OPTIONS.split()]
        group = started[0].pid if started else 0
        place = Path(train.__file__).parents[1]
        started.append(subprocess.Popen(command, cwd=place, env={**common, **ranks}, process_group=group))
    return started


def finish(started: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait(timeout=600) for process in started] == [0] * len(started)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ten_kills_change_nothing(make_shard_folder: Callable[..., Path], tmp_path: Path, processes: int) -> None:
    shards = make_shard_folder(size=32, train=300)
    finish(start(shards, tmp_path / "whole", processes))
    delays = np.random.default_rng(processes).uniform(0, 25, KILLS)
    for delay in delays:
        started = start(shards, tmp_path / "killed", processes)
        try:
            started[0].wait(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(started[0].pid, signal.SIGKILL)
        for process in started:
            process.wait()
    finish(start(shards, tmp_path / "killed", processes))
    whole, killed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
