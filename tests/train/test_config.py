from pathlib import Path
from typing import Any

import pytest

from stylize.errors import InputError
from train import TrainConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", "vgg16"),
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
    ],
)
def test_bad_value_is_quoted(name: str, value: object) -> None:
    settings: dict[str, Any] = {"shards": Path("s"), "arch": "resnet34", "method": "pairing", "out": Path("o")}
    TrainConfig(**settings)
    with pytest.raises(InputError, match=repr(value)):
        TrainConfig(**{**settings, name: value})
