"""What a run leaves for people and tools: metrics, live logs, the environment, the identity of its inputs."""

import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision

from stylize.console import InputError
from stylize.shards.manifest import MANIFEST_NAME, read_manifest
from stylize.shards.shard import file_sha256
from train.augment import ImagePreset
from train.checkpoint import ModelCard
from train.config import TrainConfig
from train.distributed import World, uses_bf16, uses_sync_batchnorm
from train.evaluation import Tally
from train.loop import Trainer
from train.methods import METHODS
from train.models import IMAGENET, SCRATCH
from train.pairs import PairDataset


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the sections `versions` and `hardware` of a document."""
    packages = {"torch": str(torch.__version__), "torchvision": version("torchvision"), "numpy": np.__version__}
    used = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "versions": {"python": platform.python_version(), **packages},
        "hardware": {"cpu": _cpu_name(), "threads": torch.get_num_threads(), "device": used},
    }


def _cpu_name() -> str:
    """Return the processor's name; Linux tells it in /proc/cpuinfo only."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def run_metrics(trainer: Trainer, tested: Tally, training_images: int, validation_images: int) -> dict[str, Any]:
    """Return the numbers of `metrics.json`; `tested` is of the test images, of which there may be none."""
    progress = trainer.progress
    return {
        "best_epoch": progress.best_epoch,
        "best_validation_accuracy": progress.best_accuracy,
        "training_images": training_images,
        "validation_images": validation_images,
        "test_accuracy": tested.accuracy if tested.images else None,
        "test_images": tested.images,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "parameters": sum(parameter.numel() for parameter in trainer.judged.parameters()),
    }


def run_record(trainer: Trainer, identity: dict[str, Any], tested: Tally, class_names: list[str]) -> dict[str, Any]:
    """Return `record.json`: settings with the digest of the shards, versions, hardware, and accuracy by class.

    `flop_per_image` is of a training step, forward and backward, over all that the method shows of an image.
    """
    by_class = zip(class_names, tested.class_correct, tested.class_images, strict=True)
    return {
        **describe_environment(trainer.world.device),
        "settings": identity,
        "flop_per_image": trainer.flops_per_image,
        "test_accuracy_by_class": {name: right / images for name, right, images in by_class if images},
        "best_epoch_metrics": trainer.progress.rows[trainer.progress.best_epoch - 1],
    }


LIVE_NAME = "live"
Report = Callable[[Mapping[str, float]], None]


@contextmanager
def followed(log: str, out: Path, rows: Iterable[Mapping[str, float]]) -> Iterator[Report]:
    """Lend a function that shows the metrics of an epoch to whoever follows the run in `out/live`.

    The folder is begun anew with `rows`, those of the epochs before, so that a continued run shows each once.  Raises
    `InputError` where the package that `log` names is not installed.
    """
    folder = out / LIVE_NAME
    if log == "none":
        yield lambda row: None
        return
    shutil.rmtree(folder, ignore_errors=True)
    with (_dvclive if log == "dvclive" else _tensorboard)(folder) as report:
        for row in rows:
            report(row)
        yield report


@contextmanager
def _dvclive(folder: Path) -> Iterator[Report]:
    try:
        from dvclive import Live
    except ImportError:
        raise InputError("--log dvclive needs DVCLive: pip install 'stylized-pairing[live]'.") from None
    live = Live(str(folder), save_dvc_exp=False, dvcyaml=str(folder / "dvc.yaml"))

    def report(row: Mapping[str, float]) -> None:
        live.step = int(row["epoch"])
        for name, value in _numbers(row):
            live.log_metric(name, value)
        live.next_step()

    yield report
    live.end()


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Report]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of the packages that it is made of
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--log tensorboard needs TensorBoard: pip install 'stylized-pairing[live]'.") from None
    writer = SummaryWriter(str(folder))

    def report(row: Mapping[str, float]) -> None:
        for name, value in _numbers(row):
            writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    yield report
    writer.close()


def _numbers(row: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in row.items() if name != "epoch" and value is not None)


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
