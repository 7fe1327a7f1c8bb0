"""Several processes compute what one computes on the batches of all, for every method."""

import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from stylize.console import InputError
from train import TrainConfig
from train.distributed import join_world
from train.loading import process_context
from train.loop import Trainer
from train.methods import METHODS


def compute(out: Path, steps: int) -> None:
    """Write every method's losses on a network with BatchNorm and this process's share of each batch.

    Noise is a function of the image, so that it is the same however a batch is shared out.
    """
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (steps, 8, 3, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (steps, 8), generator=generator)
    losses: dict[str, list[float]] = {}
    with pytest.MonkeyPatch.context() as patch, join_world("cpu") as world:
        patch.setattr("train.methods.random_start", lambda images, epsilon: epsilon * torch.sin(1e3 * images))
        share = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
        for method in METHODS:
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3),
            )  # fmt: skip
            config = TrainConfig(
                Path("s"), "small", method, Path("o"), epochs=1, batch_size=8 // world.size, dtype="fp32",
                optimizer="sgd", learning_rate=0.01, attack_steps=2, sync_batchnorm=True,
            )  # fmt: skip
            trainer = Trainer(config, model, world, steps, 3)
            losses[method] = []
            for step in range(steps):
                views = images[step, share, : 2 if METHODS[method].views == "copy" else 3]
                losses[method].append(float(world.sum(trainer._step(views, labels[step, share])[0])) / world.size)
    if world.is_main:
        out.write_text(json.dumps(losses))


def compute_as(rank: int, port: int, out: Path, steps: int) -> None:
    """Compute as one of two processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    compute(out, steps)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("steps", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_two_processes_compute_what_one_computes(tmp_path: Path, steps: int) -> None:
    compute(tmp_path / "one.json", steps)
    port, context = free_port(), process_context()
    started = [context.Process(target=compute_as, args=(rank, port, tmp_path / "two.json", steps)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(600)
    assert [process.exitcode for process in started] == [0, 0]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert set(one) == set(METHODS)
    for method in METHODS:
        assert two[method] == pytest.approx(one[method], rel=1e-5), method
        assert len(set(one[method])) == steps


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_others_do_not_come_says_so(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    port = free_port()
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("train.distributed.LIMIT", timedelta(seconds=1))
    with pytest.raises(InputError, match=f"127.0.0.1:{port}"), join_world("cpu"):
        pass
