"""What makes a run the same run, and the card of the model that it makes."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision

from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME, read_manifest
from train.augmentation import ImagePreset
from train.checkpoint import ModelCard
from train.config import TrainConfig
from train.distributed import World
from train.hardware import uses_bf16, uses_sync_batchnorm
from train.methods.table import METHODS
from train.models import IMAGENET, SCRATCH
from train.pairs import PairDataset

_CHANGE_NO_RESULT = ("shards", "out", "workers", "save_minutes", "log")


def run_identity(config: TrainConfig, world: World) -> dict[str, Any]:
    """Return every setting that changes the result, without paths: files count by their content."""
    read_manifest(config.shards)
    settings = {name: value for name, value in asdict(config).items() if name not in _CHANGE_NO_RESULT}
    if config.weights not in (SCRATCH, IMAGENET) and Path(config.weights).is_file():
        settings["weights"] = f"sha256:{file_sha256(Path(config.weights))}"
    return {
        **settings,
        "pairing_weight": config.weight,
        "distance": config.distance or METHODS[config.method].distance,
        "epsilon": config.loss_settings.epsilon,
        "shards_sha256": file_sha256(config.shards / MANIFEST_NAME),
        "dtype": "bf16" if uses_bf16(config, world.device) else "fp32",
        "device": world.device.type,
        "sync_batchnorm": uses_sync_batchnorm(config, world),
        "world_size": world.size,
    }


def model_card(samples: PairDataset, preset: ImagePreset, identity: dict[str, Any]) -> ModelCard:
    """Return the card of a run's model."""
    return ModelCard(
        arch=identity["arch"],
        method=identity["method"],
        class_names=samples.class_names,
        image_size=preset.size,
        image_preset=preset.name,
        seed=identity["seed"],
        shards_sha256=identity["shards_sha256"],
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "pillow": PIL.__version__,
        },
        config=identity,
    )
