"""Options of `train run`, their defaults and checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylize.console import InputError, option_name
from train.augment import IMAGE_PRESETS
from train.methods import DISTANCES, METHODS, Settings
from train.models import IMAGENET, SCRATCH, SMALL, STEMS, is_architecture, unknown_architecture

LOGS = ("none", "dvclive", "tensorboard")

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "linear", "constant")
DTYPES = ("auto", "bf16", "fp32")

# Guan et al. (2022), as their code has it: Adam 1e-4, 20 epochs, batch 64, fine-tuned from ImageNet weights at 224 px.
_PAPER: Mapping[str, Any] = {
    "learning_rate": 1e-4,
    "schedule": "constant",
    "epochs": 20,
    "batch_size": 64,
    "image_preset": "paper",
    "weights": IMAGENET,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": _PAPER,
    "paper-cifar10": _PAPER,
    "paper-cifar100": _PAPER,
    "paper-imagenet100": {**_PAPER, "batch_size": 32},
    # The best accuracy for ten minutes on two cores, from the ideas of airbench (Jordan 2024).
    "small-fast": {
        "arch": SMALL,
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "weight_decay": 5e-4,
        "schedule": "linear",
        "warmup_epochs": 1.0,
        "label_smoothing": 0.2,
        "ema": 0.99,
        "epochs": 12,
        "batch_size": 256,
        "validation_fraction": 0.02,
    },
}


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what and how; a value out of range raises `InputError`.

    `batch_size` counts pairs per process, and `accumulate` batches make one update.  `pairing_weight` is λ of Eq. 6,
    which rises from 0 over the first `pairing_warmup` epochs, and `distance` that of a pair's logits; `epsilon` and
    `attack_steps` are of attacks in training.  Where one is None, the method says it.  `mixup` and `cutmix` are α of
    the Beta distribution of shares, `ema` the decay of averaged weights, `clip_norm` the greatest norm of a gradient;
    0 switches each off.  `validation_fraction` of the training samples choose the best epoch, unless the shards have
    a split `val`.  `split_batchnorm` gives copies and adversaries statistics of their own in training, and
    `sync_batchnorm` lets BatchNorm span all processes (None: on GPUs).  `workers` load images (None: 2, but
    none on few cores without GPU), every `save_minutes` the state is saved, and `log` says who follows; they do not
    change any result, nor does `out`.
    """

    shards: Path
    arch: str
    method: str
    out: Path
    stem: str = "standard"
    weights: str = SCRATCH
    image_preset: str = "auto"
    epochs: int = 20
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    pairing_weight: float | None = None
    pairing_warmup: float = 0.0
    distance: str | None = None
    epsilon: float | None = None
    attack_steps: int = 7
    validation_fraction: float = 0.1
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    compile: bool = False
    split_batchnorm: bool = False
    sync_batchnorm: bool | None = None
    workers: int | None = None
    save_minutes: float = 5.0
    log: str = "none"

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()

    def _check_choices(self) -> None:
        if not is_architecture(self.arch):
            raise InputError(unknown_architecture(self.arch))
        _choose("stem", self.stem, STEMS)
        _choose("method", self.method, METHODS)
        _choose("image_preset", self.image_preset, IMAGE_PRESETS)
        _choose("optimizer", self.optimizer, OPTIMIZERS)
        _choose("schedule", self.schedule, SCHEDULES)
        _choose("dtype", self.dtype, DTYPES)
        _choose("log", self.log, LOGS)
        if self.distance is not None:
            _choose("distance", self.distance, DISTANCES)

    def _check_ranges(self) -> None:
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2, because BatchNorm needs two images")
        for name in ("epochs", "accumulate", "attack_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "save_minutes"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a number above 0")
        for name in ("weight", "pairing_warmup", "warmup_epochs", "weight_decay", "mixup", "cutmix", "clip_norm"):
            shown = "pairing_weight" if name == "weight" else name
            _require(0 <= getattr(self, name) < math.inf, shown, getattr(self, name), "0 or more")
        for name in ("label_smoothing", "ema"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more, below 1")
        epsilon, fraction = self.loss_settings.epsilon, self.validation_fraction
        _require(0 < epsilon <= 1, "epsilon", epsilon, "a number above 0, up to 1")
        _require(0 < fraction < 1, "validation_fraction", fraction, "a number between 0 and 1")
        _require(self.warmup_epochs < self.epochs, "warmup_epochs", self.warmup_epochs, f"less than {self.epochs}")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        if self.split_batchnorm and self.sync_batchnorm:
            raise InputError("--split-batchnorm and --sync-batchnorm do not go together: choose one.")
        _require((self.workers or 0) >= 0, "workers", self.workers or 0, "0 or more")

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
