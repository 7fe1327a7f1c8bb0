"""What a run leaves in its folder: the identity of its inputs, its metrics, its record and its live logs."""

import csv
import fcntl
import io
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stylize.console import InputError
from stylize.files import file_sha256, write_atomically
from stylize.shards.manifest import MANIFEST_NAME, read_manifest
from train.augment import ImagePreset
from train.config import IMAGENET, SCRATCH, TrainConfig
from train.dataset import PairedShards
from train.distributed import World, loading_workers, uses_bf16, uses_sync_batchnorm
from train.evaluation import Metrics
from train.loading import is_streamed
from train.loop import Trainer
from train.methods import METHODS
from train.models import MODEL_NAME, ModelCard, read_card
from train.state import STATE_NAME, refuse_other_settings

METRICS_NAME, EPOCHS_NAME, RECORD_NAME = "metrics.json", "metrics.csv", "record.json"
LIVE_NAME = "live"
_CHANGE_NO_RESULT = ("shards", "out", "workers", "save_minutes", "log")
Report = Callable[[Mapping[str, float]], None]


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
        "streaming_workers": loading_workers(config, world.device, True) if is_streamed(config.shards) else None,
    }


def model_card(samples: PairedShards, preset: ImagePreset, identity: dict[str, Any]) -> ModelCard:
    """Return the card of a run's model."""
    known = {name: identity[name] for name in ("arch", "method", "seed", "shards_sha256")}
    known |= {"image_size": preset.size, "image_preset": preset.name, "config": identity}
    return ModelCard(class_names=samples.class_names, versions=_versions("torchvision", "pillow"), **known)


@contextmanager
def locked_folder(out: Path, world: World) -> Iterator[None]:
    """Make a run's folder and keep other runs out while it works there.

    Raises `InputError` where it cannot be made, or another run is at work in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The output folder {out} cannot be made ({error.strerror}): choose another.") from None
    folder = os.open(out, os.O_RDONLY)
    busy = False
    try:
        with suppress(OSError):  # a file system without locks keeps nobody out
            try:
                if world.is_main:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy = True
        if world.any(busy):
            raise InputError(f"Another run is at work in {out}: wait for it to end, or choose another output folder.")
        yield
    finally:
        os.close(folder)


def finished_metrics(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metrics of a finished run, None without a whole one; raises `InputError` if it is another run's."""
    if (out / STATE_NAME).exists() or not (out / METRICS_NAME).is_file():
        return None
    try:
        earlier = read_card(out / MODEL_NAME).config
        metrics: dict[str, Any] = json.loads((out / METRICS_NAME).read_text(encoding="utf-8"))
    except (InputError, ValueError):
        return None  # damaged: train again
    advice = "choose another output folder, or delete this one"
    refuse_other_settings(earlier, identity, f"{out} holds a finished model", advice)
    return metrics


def remove_results(out: Path) -> None:
    """Remove an earlier, damaged run's results, the marker first: results of two runs never lie side by side."""
    for name in (METRICS_NAME, RECORD_NAME, EPOCHS_NAME, MODEL_NAME):
        (out / name).unlink(missing_ok=True)


def write_epochs(out: Path, rows: list[dict[str, float]]) -> None:
    """Write one line per finished epoch to `metrics.csv`."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)  # an epoch resumed after its last step lacks some
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / EPOCHS_NAME, text.getvalue().encode())


def write_results(
    out: Path, trainer: Trainer, identity: dict[str, Any], tested: Metrics, classes: list[str], counts: dict[str, int]
) -> dict[str, Any]:
    """Write what a finished run leaves beside its model, and return the numbers of `metrics.json`.

    `record.json` has the settings with the digest of the shards, versions, hardware and accuracy by class; its
    `flop_per_image` is of a training step, forward and backward, over all that the method shows of an image.
    `metrics.json` goes last: with it the run is finished, and its state goes.  `tested` is of the test images, of which
    there may be none; `counts` are those of other images.
    """
    progress, by_class = trainer.progress, zip(classes, tested.by_class.tolist(), strict=True)
    record = {
        **describe_environment(trainer.world.device),
        "settings": identity,
        "flop_per_image": trainer.flops_per_image,
        "test_accuracy_by_class": {name: right / images for name, (images, right, *_) in by_class if images},
        "best_epoch_metrics": progress.rows[progress.best_epoch - 1],
    }
    metrics = {
        "best_epoch": progress.best_epoch,
        "best_validation_accuracy": progress.best_accuracy,
        **counts,
        "test_accuracy": tested.accuracy if tested.images else None,
        "test_images": tested.images,
        "epochs": progress.epoch,
        "seconds": round(progress.seconds, 3),
        "parameters": sum(parameter.numel() for parameter in trainer.evaluated.parameters()),
    }
    for name, document in ((RECORD_NAME, record), (METRICS_NAME, metrics)):
        write_atomically(out / name, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
    (out / STATE_NAME).unlink(missing_ok=True)
    return metrics


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the sections `versions` and `hardware` of a document."""
    used = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "versions": _versions("torchvision", "numpy"),
        "hardware": {"cpu": _cpu_name(), "threads": torch.get_num_threads(), "device": used},
    }


def _versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, PyTorch with its kind of build, and other packages."""
    others = {name: version(name) for name in packages}
    return {"python": platform.python_version(), "torch": str(torch.__version__), **others}


def _cpu_name() -> str:
    """Return the processor's name; Linux tells it in /proc/cpuinfo only."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@contextmanager
def live_log(log: str, out: Path, rows: Iterable[Mapping[str, float]]) -> Iterator[Report]:
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
