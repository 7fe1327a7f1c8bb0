"""The paper's path on the images that a model classifies correctly, and its record in the result file."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite
from typing import Any

import torch
from torch import nn

from attack.attacks.attempt import Attempt
from attack.attacks.fgsm import AttackPath, fgsm_path, join_paths
from attack.evaluation.config import PATH_IMAGES, AttackConfig
from attack.evaluation.images import ImageSet, ProgressReport


def walkers(clean: Sequence[bool]) -> list[int]:
    """Return which of the N images walk: those classified correctly among the first `PATH_IMAGES`."""
    return [index for index, correct in enumerate(clean[:PATH_IMAGES]) if correct]


def walk(
    model: nn.Module, images: ImageSet, indices: Sequence[int], config: AttackConfig, progress: ProgressReport
) -> AttackPath:
    """Attack the chosen images in batches and return their paths, joined on the CPU."""

    def paths() -> Iterator[AttackPath]:
        done = 0
        for rows in torch.split(torch.tensor(indices), config.batch_size):
            yield fgsm_path(
                model,
                images.pixels[rows],
                images.labels[rows],
                step_size=config.step_size,
                steps=config.steps,
                zero_gradient=config.zero_gradient,
            )
            done += len(rows)
            progress("Paper's path", done, len(indices))

    return join_paths(paths())


def path_section(keys: Sequence[str], path: AttackPath, empty: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Fill the `empty` section `path`: the mean loss at each step, and one record an image, with every digit.

    The authors' interpolator floors values, so that a curve can hang on the sixth digit of a distance.
    """
    columns = (path.correct.int(), path.l2, path.linf)
    return {
        **empty,
        "forwards": path.correct.numel(),
        "backwards": path.correct.numel(),
        "seconds": round(seconds, 2),
        "loss": [loss if isfinite(loss) else None for loss in path.loss.double().mean(0).tolist()],
        "records": [
            {"key": key, "correct": correct.tolist(), "l2": l2.tolist(), "linf": linf.tolist()}
            for key, correct, l2, linf in zip(keys, *columns, strict=True)
        ],
    }


def empty_section(config: AttackConfig, images: int) -> dict[str, Any]:
    """Return the section `path` where none of N images could walk; `images` is how many were looked at."""
    numbers = {"steps": config.steps, "step_size": config.step_size, "zero_gradient": config.zero_gradient}
    return {
        "images": min(images, PATH_IMAGES),
        **numbers,
        "forwards": 0,
        "backwards": 0,
        "seconds": 0.0,
        "loss": [],
        "records": [],
    }


def path_attempt(keys: Sequence[str], clean: Sequence[bool], section: Mapping[str, Any]) -> Attempt:
    """Return the path as an attempt: the smallest L∞ distance at which it found each of N images wrong.

    That is infinite where it found none, or where an image did not walk.
    """
    found = {record["key"]: _first_error(record) for record in section["records"]}
    distance = tuple(found.get(key, inf) if right else 0.0 for key, right in zip(keys, clean, strict=True))
    settings = {"steps": section["steps"], "step_size": section["step_size"], "attacked": len(found)}
    return Attempt(
        "paper-path", "minimal-norm", "linf", None, tuple(far == inf for far in distance), distance,
        section["forwards"], section["backwards"], section["seconds"], settings,
    )  # fmt: skip


def _first_error(record: Mapping[str, Any]) -> float:
    return min((far for far, right in zip(record["linf"], record["correct"], strict=True) if not right), default=inf)
