"""The state of an unfinished run: whole, or refused in a sentence that says what to do."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stylize.console import InputError
from train.config import TrainConfig
from train.distributed import World
from train.evaluation import Metrics
from train.loop import Trainer
from train.state import SavedState, load_state, save_state

IDENTITY = {"seed": 0}
HEADER = b"stylized-pairing state 1\n"
Document = dict[str, Any]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """Return a trainer after its first epoch of two steps."""
    config = TrainConfig(Path("shards"), "small", "normal", tmp_path, epochs=2, dtype="fp32")
    model = nn.Sequential(nn.Conv2d(3, 8, 32), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 3))
    trainer = Trainer(config, model, World(0, 1, torch.device("cpu")), 2, 3)
    images = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    batch = (images, torch.tensor([0, 1]))
    trainer.run_epoch([batch, batch], lambda: False, lambda _: None)
    trainer.finish_epoch(Metrics(torch.tensor([[1.0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])))
    return trainer


@pytest.fixture
def saved(trainer: Trainer, tmp_path: Path) -> Path:
    save_state(tmp_path, trainer.state(IDENTITY))
    return tmp_path / "state.pt"


def resume(trainer: Trainer, out: Path) -> None:
    state = load_state(out, IDENTITY)
    assert state is not None
    trainer.resume(state)


def seal(path: Path, payload: bytes) -> None:
    """Write a state as the format has it, with a right checksum."""
    path.write_bytes(HEADER + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)


def test_what_is_saved_is_loaded(trainer: Trainer, saved: Path) -> None:
    state = load_state(saved.parent, IDENTITY)
    assert isinstance(state, SavedState)
    assert state.progress.rows == trainer.progress.rows
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(state.model[name], tensor)
        assert torch.equal(state.progress.best_model[name], tensor)
    resume(trainer, saved.parent)


def test_one_flipped_bit_anywhere_is_refused(trainer: Trainer, saved: Path) -> None:
    whole, rng = saved.read_bytes(), np.random.default_rng(0)
    for position in [0, 30, 95, len(whole) - 1, *rng.integers(len(whole), size=12)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"state\.pt cannot be read \(it differs from its checksum\): delete .*anew"
        ):
            load_state(saved.parent, IDENTITY)


@pytest.mark.parametrize("junk", [b"", b"junk", HEADER, b"\x80\x04" * 100, HEADER + b"0" * 64 + b"\n"])
def test_junk_is_refused(saved: Path, junk: bytes) -> None:
    saved.write_bytes(junk)
    with pytest.raises(InputError, match=r"state\.pt cannot be read .*: delete"):
        load_state(saved.parent, IDENTITY)


def without(*keys: Any) -> Callable[[Document], object]:
    """Return a change that removes what a path of keys leads to."""

    def change(document: Document) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


WEIGHT = "3.weight"
CHANGES: dict[str, Callable[[Document], object]] = {
    "no model": without("model"),
    "no progress": without("progress"),
    "no epoch": without("progress", "epoch"),
    "a missing tensor": without("model", WEIGHT),
    "a tensor of another shape": lambda document: document["model"].update({WEIGHT: torch.zeros(4, 4)}),
    "no tensor": lambda document: document["model"].update({WEIGHT: "weights"}),
    "an empty best model": lambda document: document["progress"].update(best_model={}),
    "a best model that lacks a tensor": without("progress", "best_model", WEIGHT),
    "no optimiser's state": without("optimizer", "state"),
    "a moment that is missing": without("optimizer", "state", 3, "exp_avg"),
    "a moment of another shape": lambda document: document["optimizer"]["state"][3].update(exp_avg=torch.zeros(7)),
    "fewer groups": lambda document: document["optimizer"].update(param_groups=[]),
    "fewer rows": lambda document: document["progress"].update(rows=[]),
    "a step beyond the epoch": lambda document: document["progress"].update(step=3),
    "a negative step": lambda document: document["progress"].update(step=-1),
    "a text for a step": lambda document: document["progress"].update(step="1"),
    "a list": lambda document: document.update(progress=[]),
}


def test_a_layer_that_is_not_used_has_no_state(tmp_path: Path) -> None:
    class Unused(nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self[1](self[0](images))
            return logits

    config = TrainConfig(Path("shards"), "own:unused", "normal", tmp_path, epochs=2, dtype="fp32")
    model = Unused(nn.Flatten(), nn.Linear(3072, 3), nn.Linear(3, 3))
    trainer = Trainer(config, model, World(0, 1, torch.device("cpu")), 2, 3)
    batch = (torch.ones(2, 1, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
    trainer.run_epoch([batch], lambda: False, lambda _: None)
    save_state(tmp_path, trainer.state(IDENTITY))
    before = model.get_parameter("1.weight").detach().clone()
    trainer.run_epoch([batch], lambda: False, lambda _: None)
    resume(trainer, tmp_path)
    assert torch.equal(model.get_parameter("1.weight"), before)


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_is_refused_in_a_sentence(trainer: Trainer, saved: Path, name: str) -> None:
    document = torch.load(io.BytesIO(saved.read_bytes()[len(HEADER) + 65 :]), weights_only=True)
    CHANGES[name](document)
    buffer = io.BytesIO()
    torch.save(document, buffer)
    seal(saved, buffer.getvalue())
    with pytest.raises(
        InputError, match=r"state\.pt cannot be read \(.+\): delete .*state\.pt to start anew"
    ) as caught:
        resume(trainer, saved.parent)
    assert "\n" not in str(caught.value)


def test_a_hostile_state_is_not_obeyed(saved: Path) -> None:
    class Obeyed:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {saved.parent / 'obeyed'}",)

    buffer = io.BytesIO()
    torch.save(Obeyed(), buffer)
    seal(saved, buffer.getvalue())
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_state(saved.parent, IDENTITY)
    assert "weights_only" not in str(caught.value)
    assert not (saved.parent / "obeyed").exists()
