"""Whatever ends a run, and wherever: the same command goes on to the same weights."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import train
from tests.commands import PYTHON
from train import TrainConfig, train_model
from train.state import SaveClock

ShardFolderMaker = Callable[..., Path]
# Arguments: shards, out, method, what to do.  Epochs are three steps; in the second, `kill` ends the run by SIGKILL
# after a step that was saved, `evaluation` sends SIGTERM to all processes of the group while the model is evaluated.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
import train.run
from train import TrainConfig, train_model
from train.state import SaveClock
from train.loop import Trainer
shards, out, method, what = sys.argv[1:]
torch.set_num_threads(1)
if what == "kill":
    SaveClock.due = lambda clock: True
    step = Trainer._step
    def killed(trainer, *batch):
        if (trainer.progress.epoch, trainer.progress.step) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, *batch)
    Trainer._step = killed
else:
    count, calls = train.run.count, []
    def stopped(*arguments, **options):
        calls.append(None)
        if len(calls) == 2:
            os.killpg(os.getpgid(0), signal.SIGTERM)
        return count(*arguments, **options)
    train.run.count = stopped
train_model(TrainConfig(Path(shards), "small", method, Path(out), epochs=2, batch_size=6, dtype="fp32",
    attack_steps=1, device="cpu", workers=int(what != "kill")))
"""


@pytest.mark.parametrize(
    ("method", "what", "code", "step"),
    [("pairing", "kill", -signal.SIGKILL, 2), ("pgd", "evaluation", 143, 3)],  # whose random starts BatchNorm sees
)
def test_a_run_that_was_ended_goes_on_to_the_same_weights(
    make_shard_folder: ShardFolderMaker, tmp_path: Path, commands: Path, method: str, what: str, code: int, step: int
) -> None:
    shards, out, whole = make_shard_folder(size=32), tmp_path / "out", tmp_path / "whole"
    ended = subprocess.run(
        [commands / PYTHON, "-c", PROGRAM, str(shards), str(out), method, what],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ("Stopped and saved" in ended.stderr) == (what == "evaluation")
    config = TrainConfig(
        shards, "small", method, out, epochs=2, batch_size=6, dtype="fp32", attack_steps=1, device="cpu", workers=0
    )
    steps = []

    def count_steps(trainer: train.loop.Trainer, *batch: Tensor) -> Tensor:
        steps.append(trainer.progress.step)
        return original(trainer, *batch)

    original = train.loop.Trainer._step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.loop.Trainer, "_step", count_steps)
        train_model(config)
    assert steps == list(range(step, 3))
    train_model(replace(config, out=whole))
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_saving_between_all_steps_changes_nothing(
    make_shard_folder: ShardFolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        make_shard_folder(size=32), "mobilenet_v3_small", "pairing", tmp_path / "out", epochs=1, batch_size=6, workers=1
    )
    saved = []
    monkeypatch.setattr(SaveClock, "saved", lambda clock, seconds: saved.append(seconds))
    train_model(config)
    monkeypatch.setattr(SaveClock, "due", lambda clock: True)
    train_model(replace(config, out=tmp_path / "often"))
    assert len(saved) == 1 + 4  # at the epoch's end; after each of three steps too
    models = [tmp_path / name / "model.safetensors" for name in ("out", "often")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_saving_takes_a_hundredth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("train.state.time.monotonic", lambda: now)
    clock = SaveClock(minutes=5)
    due = []
    for seconds, cost in ((299, 1.0), (301, 2.0), (602, 6.0), (1201, 1.0), (1203, 1.0)):
        now = float(seconds)
        due.append(clock.due())
        if due[-1]:
            clock.saved(cost)
    assert due == [False, True, True, False, True]


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
