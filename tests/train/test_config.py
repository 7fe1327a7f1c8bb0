from pathlib import Path
from typing import Any

import pytest

from stylize.console import InputError
from train import TrainConfig, config, methods


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", "vgg61"),
        ("method", "mixup"),
        ("image_preset", "huge"),
        ("schedule", "step"),
        ("dtype", "fp16"),
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("pairing_weight", -1.0),
        ("pairing_weight", float("nan")),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("seed", -1),
        ("workers", -1),
        ("stem", "tiny"),
        ("optimizer", "lion"),
        ("log", "wandb"),
        ("accumulate", 0),
        ("label_smoothing", 1.0),
        ("ema", 1.0),
        ("mixup", -0.1),
        ("mixup", 1e-300),
        ("cutmix", float("inf")),
        ("epsilon", -0.1),
        ("augment", "randaugment"),
        ("stylized_fraction", 1.5),
        ("stylized_fraction", float("nan")),
        ("clip_norm", float("nan")),
        ("warmup_epochs", 20.0),
    ],
)
def test_bad_value_is_quoted(name: str, value: object) -> None:
    settings: dict[str, Any] = {"shards": Path("s"), "arch": "resnet34", "method": "pairing", "out": Path("o")}
    TrainConfig(**settings)
    with pytest.raises(InputError, match=repr(value)):
        TrainConfig(**{**settings, name: value})


def test_two_kinds_of_batchnorm_at_once() -> None:
    with pytest.raises(InputError, match="do not go together"):
        TrainConfig(Path("s"), "resnet34", "pairing", Path("o"), split_batchnorm=True, sync_batchnorm=True)


def test_methods_and_distances_are_offered_by_their_names() -> None:
    assert tuple(methods.METHODS) == config.METHODS
    assert tuple(methods.DISTANCES) == config.DISTANCES
