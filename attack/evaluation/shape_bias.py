"""Shape bias on cue-conflict images (Geirhos et al. 2019)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from attack.checks.robustness import wilson
from attack.evaluation.images import ProgressReport, check_positive
from attack.evaluation.result import check_output, encode_result
from attack.evaluation.target import Target, open_model, predict_split
from stylize.console import InputError
from stylize.files import write_atomically
from stylize.shards.manifest import read_manifest
from stylize.shards.shard import read_shard
from train.records import describe_environment

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Decision:
    """One cue-conflict image: the classes of its shape and of its texture, and the class that the model names."""

    key: str
    shape: int
    texture: int
    predicted: int


def share(successes: int, n: int) -> dict[str, float | int | None]:
    """Return a share of n images with Wilson's 95 % interval, as a result holds it; null where there are none."""
    low, high = wilson(successes, n)
    return {"share": successes / n if n else None, "low": low, "high": high, "successes": successes, "n": n}


def summarise(decisions: Sequence[Decision]) -> dict[str, dict[str, float | int | None]]:
    """Return the shape bias and, because a ratio hides how often a model errs, both cue accuracies beside it.

    shape bias = shape decisions / (shape decisions + texture decisions); the others name a third class.
    """
    shape = sum(decision.predicted == decision.shape for decision in decisions)
    texture = sum(decision.predicted == decision.texture for decision in decisions)
    n = len(decisions)
    return {
        "shape_bias": share(shape, shape + texture),
        "shape_accuracy": share(shape, n),
        "texture_accuracy": share(texture, n),
        "neither": share(n - shape - texture, n),
    }


def measure_shape_bias(
    model: str | Path | nn.Module,
    shards: Path,
    out: Path,
    *,
    texture_free: Path | None = None,
    batch_size: int = 100,
    progress: ProgressReport = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure a model's shape bias, write the result to `out` and return it.

    Args:
        model: see `open_model`.
        shards: a folder of `stylize cue-conflict`; its class names must be the model's.
        out: the JSON file to write.
        texture_free: a folder of the same classes without texture (`stylize cue-conflict --texture-free`), on which
            the accuracy is measured too.
        batch_size: images classified at a time.
        progress: called with (stage, images done, images in all).

    Raises:
        InputError: a file is missing or damaged, the class names differ, or the images name no texture of another
            class.
    """
    check_positive(batch_size=batch_size)
    check_output(out)
    textures = _read_textures(shards)
    target = open_model(model, shards)
    predictions = predict_split(target, batch_size, progress)
    decisions = [Decision(each.key, each.label, textures[each.key], each.predicted) for each in predictions]
    document = {
        "kind": "shape-bias",
        "format_version": FORMAT_VERSION,
        **target.document,
        **summarise(decisions),
        "texture_free": _accuracy(open_model(model, texture_free), batch_size, progress) if texture_free else None,
        **describe_environment(target.device),
        "records": [asdict(decision) for decision in decisions],
    }
    write_atomically(out, encode_result(document))
    return document


def _accuracy(target: Target, batch_size: int, progress: ProgressReport) -> dict[str, Any]:
    predictions = predict_split(target, batch_size, progress)
    correct = sum(each.predicted == each.label for each in predictions)
    return {"shards": target.document["shards"], "accuracy": share(correct, len(predictions))}


def _read_textures(shards: Path) -> dict[str, int]:
    """Return the class of every test image's texture by key."""
    manifest = read_manifest(shards)
    labels = {name: label for label, name in enumerate(manifest.class_names)}
    textures = {}
    for path in manifest.paths(shards, "test"):
        for sample in read_shard(path):
            texture = sample.metadata.get("texture")
            if not isinstance(texture, str) or labels.get(texture, sample.label) == sample.label:
                raise InputError(
                    f"{path}: sample {sample.key} has no texture of another class: "
                    "give a folder of `stylize cue-conflict`."
                )
            textures[sample.key] = labels[texture]
    return textures
