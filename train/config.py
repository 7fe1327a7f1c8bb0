"""The settings of one training run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylize.errors import InputError
from stylize.wording import option_name
from train.augmentation import IMAGE_PRESETS
from train.methods.distances import DISTANCES
from train.methods.method import Settings
from train.methods.table import METHODS
from train.models import ARCHITECTURES, IMAGENET, SCRATCH

SCHEDULES = ("cosine", "constant")
DTYPES = ("auto", "bf16", "fp32")

# Guan et al. (2022): Adam 1e-4, 20 epochs, batch 64, fine-tuned from ImageNet weights at 224 px.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        "learning_rate": 1e-4,
        "schedule": "constant",
        "epochs": 20,
        "batch_size": 64,
        "image_preset": "paper",
        "weights": IMAGENET,
    },
}


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what and how; a value out of range raises `InputError`.

    `batch_size` counts pairs per process.  `pairing_weight` is λ of Eq. 6, which rises from 0 over the first
    `pairing_warmup` epochs, and `distance` that of a pair's logits; `epsilon` and `attack_steps` are of attacks in
    training.  Where one is None, the method says it.  `validation_fraction` of the training samples choose the best
    epoch, unless the shards have a split `val`.  `sync_batchnorm` lets BatchNorm span all processes (None: on GPUs).
    `workers` load images, and every `save_minutes` the state is saved; they do not change any result, nor does `out`.
    """

    shards: Path
    arch: str
    method: str
    out: Path
    weights: str = SCRATCH
    image_preset: str = "auto"
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    pairing_weight: float | None = None
    pairing_warmup: float = 0.0
    distance: str | None = None
    epsilon: float | None = None
    attack_steps: int = 7
    validation_fraction: float = 0.1
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    sync_batchnorm: bool | None = None
    workers: int = 2
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        _choose("arch", self.arch, ARCHITECTURES)
        _choose("method", self.method, METHODS)
        _choose("image_preset", self.image_preset, IMAGE_PRESETS)
        _choose("schedule", self.schedule, SCHEDULES)
        _choose("dtype", self.dtype, DTYPES)
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2, because BatchNorm needs two images")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "a number above 0")
        _require(0 <= self.weight < math.inf, "pairing_weight", self.weight, "0 or more")
        _require(0 <= self.pairing_warmup < math.inf, "pairing_warmup", self.pairing_warmup, "0 or more")
        if self.distance is not None:
            _choose("distance", self.distance, DISTANCES)
        _require(
            0 < self.loss_settings.epsilon <= 1, "epsilon", self.loss_settings.epsilon, "a number above 0, up to 1"
        )
        _require(self.attack_steps >= 1, "attack_steps", self.attack_steps, "at least 1")
        fraction = self.validation_fraction
        _require(0 < fraction < 1, "validation_fraction", fraction, "a number between 0 and 1")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        _require(0 < self.save_minutes < math.inf, "save_minutes", self.save_minutes, "a number above 0")
        _require(self.workers >= 0, "workers", self.workers, "0 or more")

    @property
    def weight(self) -> float:
        """λ: the given one, or the method's own."""
        return METHODS[self.method].pairing_weight if self.pairing_weight is None else self.pairing_weight

    @property
    def loss_settings(self) -> Settings:
        """What the method is told."""
        method = METHODS[self.method]
        epsilon = method.epsilon if self.epsilon is None else self.epsilon
        return Settings(DISTANCES[self.distance or method.distance], epsilon, self.attack_steps)


def _choose(name: str, value: str, choices: Mapping[str, Any] | tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{option_name(name)} is {value!r}: choose one of {', '.join(choices)}.")


def _require(condition: bool, name: str, value: float, right: str) -> None:
    if not condition:
        raise InputError(f"{option_name(name)} is {value!r}: give {right}.")
