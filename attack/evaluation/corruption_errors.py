"""How often a model errs on corrupted images: published arrays, or the home-made sweep."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attack.evaluation.corruption_arrays import SEVERITIES as PUBLISHED_SEVERITIES
from attack.evaluation.corruption_arrays import CorruptionArray, open_arrays
from attack.evaluation.corruptions import HOME_MADE, SEVERITIES, corrupt
from attack.evaluation.images import ProgressReport, choose_images, image_order
from attack.evaluation.predictions import image_batches, predict
from attack.evaluation.results import check_output, encode_result
from attack.evaluation.shape_bias import share
from attack.evaluation.subject import Subject, load_subject
from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.shards.format import file_sha256
from train import image_preset
from train.environment import describe_environment

FORMAT_VERSION = 1
HOME_MADE_NAME = "home-made"
PUBLISHED_NAME = "published arrays"
CLEAN = ("clean", 0)
Errors = dict[tuple[str, int], NDArray[np.bool_]]  # by (corruption, severity): for each of N images, whether it errs


def measure_corruptions(
    model: str | Path | nn.Module,
    shards: Path,
    out: Path,
    *,
    corruptions: Sequence[Path] = (),
    labels: Path | None = None,
    images: int = 1000,
    batch_size: int = 100,
    seed: int = 0,
    progress: ProgressReport = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure a model's errors on corrupted images, write the result to `out` and return it.

    The mean corruption error is the mean over corruptions of the mean over their severities, as it is reported for
    CIFAR-10-C; it is not divided by another model's, as ImageNet-C's is.

    Args:
        model: see `open_model`.
        shards: the shard folder; its classes must be the model's, and its test images are those that are corrupted
            where there are no arrays.
        out: the JSON file to write.
        corruptions: arrays in CIFAR-10-C's layout, one a corruption; without any, the home-made sweep.
        labels: their labels.
        images: images of each corruption and severity, chosen by hash, or all where there are fewer.
        batch_size: images classified at a time.
        seed: chooses the images and the noise.
        progress: called with (stage, done, in all).

    Raises:
        InputError: an argument is out of range, a file is missing, damaged or of another layout, or class names differ.
    """
    for name, value in (("--images", images), ("--batch-size", batch_size)):
        if value < 1:
            raise InputError(f"{name} is {value}: give 1 or more.")
    if bool(corruptions) != bool(labels):
        raise InputError("--corruptions and --labels belong together: give both, or neither for the home-made sweep.")
    check_output(out)
    subject = load_subject(model, shards)
    if labels:
        arrays, targets = open_arrays(corruptions, labels, subject.classes)
        errors = _published_errors(subject, arrays, targets, images, batch_size, seed, progress)
        files = [{"name": path.name, "sha256": file_sha256(path)} for path in (*corruptions, labels)]
    else:
        errors, files = _home_made_errors(subject, shards, images, batch_size, seed, progress), []
    document = {
        "kind": "corruptions",
        "format_version": FORMAT_VERSION,
        "corruptions_from": PUBLISHED_NAME if labels else HOME_MADE_NAME,
        **subject.document,
        "files": files,
        "seed": seed,
        **summarise_errors(errors),
        **describe_environment(subject.device),
    }
    write_atomically(out, encode_result(document))
    return document


def summarise_errors(errors: Errors) -> dict[str, Any]:
    """Return the mean corruption error with its standard error over images, and each error with Wilson's interval.

    Errors on the clean images, if there, stand under the name "clean" and apart from the mean.
    """
    clean = errors.get(CLEAN)
    corrupted = {place: found for place, found in errors.items() if place != CLEAN}
    of_images = np.mean(list(corrupted.values()), axis=0)
    spread = float(of_images.std(ddof=1) / np.sqrt(len(of_images))) if len(of_images) > 1 else None
    return {
        "images": len(of_images),
        "clean_error": share(int(clean.sum()), len(clean)) if clean is not None else None,
        "mean_corruption_error": {"mean": float(of_images.mean()), "standard_error": spread},
        "records": [
            {"corruption": name, "severity": severity, "error": share(int(found.sum()), len(found))}
            for (name, severity), found in corrupted.items()
        ],
    }


def _home_made_errors(
    subject: Subject, shards: Path, images: int, batch_size: int, seed: int, progress: ProgressReport
) -> Errors:
    keys = set(choose_images(shards, images, seed))
    places = [CLEAN, *((name, severity) for name in HOME_MADE for severity in SEVERITIES)]
    found: dict[tuple[str, int], list[bool]] = {place: [] for place in places}
    for batch in image_batches(subject, shards, batch_size, keys):
        for name, severity in places:
            clean = (name, severity) == CLEAN
            pixels = [
                image.pixels if clean else corrupt(image.pixels, name, severity, seed, image.key) for image in batch
            ]
            classes = predict(subject, torch.stack(pixels))
            found[name, severity] += [each != image.label for each, image in zip(classes, batch, strict=True)]
        progress("Home-made corruptions", len(found[CLEAN]), len(keys))
    return {place: np.array(values) for place, values in found.items()}


def _published_errors(
    subject: Subject,
    arrays: Sequence[CorruptionArray],
    labels: NDArray[np.int64],
    images: int,
    batch_size: int,
    seed: int,
    progress: ProgressReport,
) -> Errors:
    chosen = np.sort([int(key) for key in image_order(map(str, range(len(labels))), seed)[:images]])
    errors: Errors = {}
    for array in arrays:
        for severity in range(1, PUBLISHED_SEVERITIES + 1):
            rows = chosen + (severity - 1) * len(labels)
            classes = [each for batch in _batches(rows, batch_size) for each in _classify(subject, array, batch)]
            errors[array.name, severity] = np.array(classes) != labels[chosen]
            progress("Corruptions", len(errors), len(arrays) * PUBLISHED_SEVERITIES)
    return errors


def _batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _classify(subject: Subject, array: CorruptionArray, rows: NDArray[np.int64]) -> list[int]:
    preset = image_preset(subject.image_preset, subject.image_size)
    pixels = torch.from_numpy(array.images[rows]).permute(0, 3, 1, 2)
    return predict(subject, preset.resize(pixels).float().div(255))
