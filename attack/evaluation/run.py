"""Attack one model by the paper's protocol and write everything about it to one JSON file."""

import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attack.attacks.protocol import Protocol
from attack.checks.sanity import check_model, check_path
from attack.evaluation.candidates import Candidates, choose_candidates
from attack.evaluation.interpolation import INTERPOLATORS, all_curves
from attack.evaluation.measure import ProgressReport, attack_images, classify_images, collect_images
from attack.evaluation.results import FORMAT_VERSION, check_output, encode_result, image_records, record_arrays
from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from stylize.wording import counted
from train import ModelCard, load_model, load_test_images


def _silent(stage: str, done: int, total: int) -> None:
    """Show no progress."""


def attack_model(
    model_path: Path,
    shards: Path,
    out: Path,
    *,
    images: int = 100,
    steps: int = 100,
    step_size: float = 1e-4,
    zero_gradient: str = "stay",
    batch_size: int = 25,
    seed: int = 0,
    progress: ProgressReport = _silent,
) -> dict[str, Any]:
    """Attack a trained model on the test split of a shard folder, write the result to `out` and return it.

    Args:
        model_path: a model that `train run` wrote.
        shards: the shard folder; its class names must be the model's.
        out: the JSON file to write.
        images: correctly classified test images to attack, the first by hash of (seed, key).
        steps: steps of the attack.
        step_size: size of a step (1 = the full pixel range).
        zero_gradient: what an element with zero gradient does: `stay`, or `minus-one` as in the authors' code.
        batch_size: images attacked at a time.
        seed: chooses another hash order of the candidates; nothing else here is random.
        progress: called with (stage, images done, images in all).

    Raises:
        InputError: an argument is out of range, a file is missing or damaged, the class names differ, or no test image
            is classified correctly.
    """
    started = time.perf_counter()
    protocol = Protocol(images, steps, step_size, zero_gradient, batch_size, seed)
    check_output(out)
    model, card = load_model(model_path)
    manifest = read_manifest(shards)
    _check_classes(model_path, card, shards, manifest)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    # TensorFloat-32 would silently round the convolutions to ten bits on some GPUs.
    with torch.backends.cudnn.flags(allow_tf32=False):
        tests = load_test_images(shards, card.image_size, card.image_preset)
        clean = classify_images(model, tests, batch_size, manifest.samples("test"), progress)
        candidates = choose_candidates(clean, images, seed)
        if not candidates.keys:
            tested = counted(len(clean), "test image")
            raise InputError(f"{model_path} classifies none of {tested} correctly: train longer.")
        tests = load_test_images(shards, card.image_size, card.image_preset)
        outcome = _attack_candidates(model, *collect_images(tests, candidates), candidates, protocol, progress)
    document = {
        "format_version": FORMAT_VERSION,
        "model": {"path": model_path.as_posix(), "sha256": file_sha256(model_path), "card": asdict(card)},
        "shards": _describe_shards(shards, manifest, card),
        "protocol": {"attack": "fgsm-path", **asdict(protocol), "interpolators": INTERPOLATORS},
        "clean": _clean_accuracy(list(clean.values())),
        "candidates": {"walked": candidates.walked, "used": len(candidates.keys)},
        **outcome,
        **_environment(next(model.parameters()).device),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_atomically(out, encode_result(document))
    return document


def _check_classes(model_path: Path, card: ModelCard, shards: Path, manifest: Manifest) -> None:
    known, given = card.class_names, manifest.class_names
    mend = "attack it on shards of the data set that it was trained on."
    if len(known) != len(given):
        here, there = (counted(len(names), "class", "classes") for names in (known, given))
        raise InputError(f"{model_path} knows {here} but {shards} has {there}: {mend}")
    for label, (ours, theirs) in enumerate(zip(known, given, strict=True)):
        if ours != theirs:
            raise InputError(f"Class {label} is {ours!r} in {model_path} but {theirs!r} in {shards}: {mend}")


def _attack_candidates(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    candidates: Candidates,
    protocol: Protocol,
    progress: ProgressReport,
) -> dict[str, Any]:
    """Attack the chosen images (N, 3, H, W); return checks, mean loss per step, curves and records for the result."""
    path = attack_images(model, pixels, labels, protocol, progress)
    first = pixels[: protocol.batch_size].to(next(model.parameters()).device)
    checks = [*check_model(model, first), *check_path(path, steps=protocol.steps, step_size=protocol.step_size)]
    records = image_records(candidates.keys, labels.tolist(), path)
    arrays = record_arrays(records)  # the curves come from the rounded numbers in the file, which can redraw them
    curves = all_curves(arrays.correct, arrays.l2, arrays.linf, largest_linf=protocol.largest_linf)
    losses = path.loss.double().mean(0)
    return {
        "checks": [asdict(check) for check in checks],
        "loss": [round(loss, 6) if np.isfinite(loss) else None for loss in losses.tolist()],
        "curves": [asdict(curve) for curve in curves],
        "records": records,
    }


def _clean_accuracy(correct: list[bool]) -> dict[str, float | int]:
    """Accuracy over the whole test split, with the binomial standard error √(p (1 - p) / n)."""
    accuracy = sum(correct) / len(correct)
    error = float(np.sqrt(accuracy * (1 - accuracy) / len(correct)))
    return {"accuracy": accuracy, "standard_error": error, "images": len(correct)}


def _describe_shards(shards: Path, manifest: Manifest, card: ModelCard) -> dict[str, Any]:
    digest = file_sha256(shards / MANIFEST_NAME)
    return {
        "path": shards.as_posix(),
        "name": shards.resolve().name,
        "manifest_sha256": digest,
        "used_in_training": digest == card.shards_sha256,
        "classes": len(manifest.class_names),
    }


def _environment(device: torch.device) -> dict[str, Any]:
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
