"""The settings of a training run: options of `train run`, their defaults, ranges and presets."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from stylize.console import InputError, option_name
from stylize.console.references import is_reference
from stylize.console.settings import OneOf, check_settings, parse_epsilon

if TYPE_CHECKING:
    from train.methods import Settings

# The names alone: what bears them needs PyTorch, which the help of commands does not wait for.
METHODS = (
    *("normal", "stylized", "pairing", "adversarial", "pgd", "nfgsm", "nfgsm_pairing"),
    *("alp", "clp", "wrong_partner", "jitter", "augmix", "jsd"),
)
DISTANCES = ("mse", "kl", "jsd", "cosine")
IMAGE_PRESETS = ("auto", "paper", "small")
AUGMENTS = ("none", "trivial")
LOGS = ("none", "dvclive", "tensorboard")
TIMM, LITE0, SMALL = "timm/", "efficientnet_lite0", "small"
ARCHITECTURE_HELP = (
    f"a torchvision classifier such as resnet34, {TIMM}NAME, {LITE0}, {SMALL}, or your own package.module:function."
)
STEMS = ("standard", "small")
SCRATCH, IMAGENET = "scratch", "imagenet"

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


def check_architecture(name: str) -> None:
    """Raise `InputError` where no network can have this name; `make_network` finds out whether code of others has."""
    if name in (LITE0, SMALL) or name.startswith(TIMM) or is_reference(name):
        return
    from torchvision import models  # which takes seconds

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"Unknown architecture {name!r}{similar(name, known)}: give {ARCHITECTURE_HELP}")


def similar(name: str, names: Iterable[str]) -> str:
    """Return a question that names the nearest of some names, if any is near."""
    near = difflib.get_close_matches(name, names, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what and how; a value out of range raises `InputError`.

    Each field with an option is one of `train run`.  `batch_size` counts pairs per process; `pairing_weight` is λ of
    Eq. 6.  Where `pairing_weight`, `distance` or `epsilon` (the greatest change of a pixel in [0, 1]) is None, the
    method has one; where `sync_batchnorm` or `workers` is None, the hardware decides.  `validation_fraction` is used
    unless the shards have a split `val`.  `out`, `workers`, `save_minutes` and `log` do not change any result.
    """

    shards: Path
    arch: str
    method: Annotated[str, OneOf(*METHODS), Option(help=", ".join(METHODS))]
    out: Annotated[Path, Option(help="Folder for the model, its metrics and its record.")]
    stem: Annotated[str, OneOf(*STEMS), Option(help="standard, or small: for 32 px.")] = "standard"
    weights: Annotated[str, Option(help="scratch, imagenet, or a .safetensors or .pth file.")] = SCRATCH
    image_preset: Annotated[str, OneOf(*IMAGE_PRESETS), Option(help=", ".join(IMAGE_PRESETS))] = "auto"
    augment: Annotated[str, OneOf(*AUGMENTS), Option(help="none, or trivial: TrivialAugment, of pairs alike.")] = "none"
    stylized_fraction: Annotated[
        float, Option(min=0, max=1, help="Share of images that have copies; the others are paired with themselves.")
    ] = 1.0
    epochs: Annotated[int, Option(min=1)] = 20
    batch_size: Annotated[int, Option(min=2, help="Pairs per process; BatchNorm needs two.")] = 64
    accumulate: Annotated[int, Option(min=1, help="Batches that make one update.")] = 1
    optimizer: Annotated[str, OneOf(*OPTIMIZERS), Option(help=", ".join(OPTIMIZERS))] = "adam"
    learning_rate: Annotated[float, Option(min=0)] = 1e-3
    schedule: Annotated[str, OneOf(*SCHEDULES), Option(help=", ".join(SCHEDULES))] = "cosine"
    warmup_epochs: Annotated[float, Option(min=0, help="Epochs in which the learning rate rises.")] = 0.0
    weight_decay: Annotated[float, Option(min=0, help="Weight decay of matrices and filters.")] = 0.0
    label_smoothing: Annotated[float, Option(min=0, max=1)] = 0.0
    mixup: Annotated[float, Option(min=0, help="α of mixup, of pairs alike; 0: none.")] = 0.0
    cutmix: Annotated[float, Option(min=0, help="α of CutMix, of pairs alike; 0: none.")] = 0.0
    clip_norm: Annotated[float, Option(min=0, help="Largest norm of the gradient; 0: any.")] = 0.0
    ema: Annotated[float, Option(min=0, max=1, help="Decay of averaged weights; 0: no average.")] = 0.0
    pairing_weight: Annotated[
        float | None, Option("--lambda", min=0, help="Weight λ of the pairing loss. [default: the method's]")
    ] = None
    pairing_warmup: Annotated[float, Option(min=0, help="Epochs over which λ rises from 0.")] = 0.0
    distance: Annotated[
        str | None,
        OneOf(*DISTANCES),
        Option(help=f"Distance of paired logits: {', '.join(DISTANCES)}. [default: the method's]"),
    ] = None
    epsilon: Annotated[
        float | None,
        Option(parser=parse_epsilon, min=0, max=1, help="L∞ radius of attacks in training. [default: the method's]"),
    ] = None
    attack_steps: Annotated[int, Option(min=1, help="Steps of attacks in training that iterate.")] = 7
    validation_fraction: Annotated[
        float, Option(min=0, max=1, help="Share of training images that choose the epoch.")
    ] = 0.1
    seed: Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of split, order, augmentation, head and dropout.")] = 0
    dtype: Annotated[
        str, OneOf(*DTYPES), Option(help=f"{', '.join(DTYPES)}; auto: bf16 where the hardware gains by it.")
    ] = "auto"
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto"
    compile: Annotated[bool, Option("--compile", help="Compile the model first; this takes minutes.")] = False
    split_batchnorm: Annotated[
        bool, Option("--split-batchnorm", help="Give copies and adversaries their own BatchNorm.")
    ] = False
    sync_batchnorm: Annotated[
        bool | None,
        Option("--sync-batchnorm/--no-sync-batchnorm", help="BatchNorm over all processes. [default: on GPUs]"),
    ] = None
    workers: Annotated[
        int | None, Option(min=0, help="Processes that load images; no result changes. [default: 2; on few CPUs 0]")
    ] = None
    save_minutes: Annotated[float, Option(min=0, help="Time between two states to go on from after a crash.")] = 5.0
    log: Annotated[
        str, OneOf(*LOGS), Option(help=f"Service that the metrics in OUT/live go to: {', '.join(LOGS)}.")
    ] = "none"

    def __post_init__(self) -> None:
        check_architecture(self.arch)
        check_settings(self)
        for name in ("learning_rate", "save_minutes", "validation_fraction", "epsilon"):
            _require(getattr(self, name) != 0, name, self, "a number above 0")
        for name in ("label_smoothing", "ema", "validation_fraction"):
            _require(getattr(self, name) != 1, name, self, "a number below 1")
        for name in ("mixup", "cutmix"):  # beyond these, draws of the Dirichlet distribution fail
            _require(getattr(self, name) == 0 or 1e-3 <= getattr(self, name) <= 1e3, name, self, "0, or 0.001 to 1000")
        for name in ("learning_rate", "save_minutes", "pairing_weight"):
            _require(getattr(self, name) != math.inf, name, self, "a finite number")
        _require(self.warmup_epochs < self.epochs, "warmup_epochs", self, f"less than the {self.epochs} of --epochs")
        if self.split_batchnorm and self.sync_batchnorm:
            raise InputError("--split-batchnorm and --sync-batchnorm do not go together: choose one.")

    @property
    def weight(self) -> float:
        """λ: the given one, or the method's own."""
        from train.methods import METHODS

        return METHODS[self.method].pairing_weight if self.pairing_weight is None else self.pairing_weight

    @property
    def loss_settings(self) -> "Settings":
        """What the method is told."""
        from train.methods import DISTANCES, METHODS, Settings

        method = METHODS[self.method]
        epsilon = method.epsilon if self.epsilon is None else self.epsilon
        return Settings(DISTANCES[self.distance or method.distance], epsilon, self.attack_steps)


def with_preset(preset: str, **given: Any) -> TrainConfig:
    """Return the settings of a preset with others in place of its own; raises `InputError` as `TrainConfig` does.

    A warm-up of the preset is cut to half of the epochs where these are fewer.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset is {preset!r}: choose one of {', '.join(PRESETS)}.")
    values = {**PRESETS[preset], **given}
    if "arch" not in values:
        raise InputError(f"--arch is missing: give {ARCHITECTURE_HELP}")
    if "warmup_epochs" in values and "warmup_epochs" not in given and values["epochs"] >= 1:
        values["warmup_epochs"] = min(values["warmup_epochs"], values["epochs"] / 2)
    return TrainConfig(**values)


def _require(condition: bool, name: str, config: TrainConfig, right: str) -> None:
    if not condition:
        raise InputError(f"{option_name(name)} is {getattr(config, name)!r}: give {right}.")
