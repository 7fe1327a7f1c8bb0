"""The paper's protocol: accuracy as a function of distance along the attack's path."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attack.attacks import AttackResult
from attack.attacks.paper_path import AttackPath, fgsm_path, join_paths
from attack.checks.robustness import wilson
from attack.evaluation import AttackConfig
from attack.evaluation.target import ImageSet
from stylize.console import Show


def attack_along_path(
    model: nn.Module, images: ImageSet, indices: Sequence[int], config: AttackConfig, progress: Show
) -> AttackPath:
    """Attack the chosen images in batches and return their paths, joined on the CPU."""

    def paths() -> Iterator[AttackPath]:
        done = 0
        for rows in torch.split(torch.tensor(indices), config.batch_size):
            yield fgsm_path(
                model, images.pixels[rows], images.labels[rows], step_size=config.step_size, steps=config.steps,
                zero_gradient=config.zero_gradient,
            )  # fmt: skip
            done += len(rows)
            progress("Paper's path", done, len(indices))

    return join_paths(paths())


def path_section(
    keys: Sequence[str], path: AttackPath | None, config: AttackConfig, images: int, seconds: float
) -> dict[str, Any]:
    """Return the section `path` of a result: the mean loss at each step, and one record an image, with every digit.

    The authors' interpolator floors values, so that a curve can hang on the sixth digit of a distance. `keys` are of
    the images attacked, those that are right as they are among the first `images`; None is the path of none.
    """
    passes = path.correct.numel() if path else 0
    columns = (path.correct.int(), path.l2, path.linf) if path else ((), (), ())
    return {
        "images": images,
        "steps": config.steps,
        "step_size": config.step_size,
        "zero_gradient": config.zero_gradient,
        "forwards": passes,
        "backwards": passes - len(keys),
        "seconds": round(seconds, 2),
        "loss": [loss if isfinite(loss) else None for loss in path.loss.double().mean(0).tolist()] if path else [],
        "records": [
            {"key": key, "correct": correct.tolist(), "l2": l2.tolist(), "linf": linf.tolist()}
            for key, correct, l2, linf in zip(keys, *columns, strict=True)
        ],
    }


def path_attack(keys: Sequence[str], clean: Sequence[bool], section: Mapping[str, Any]) -> AttackResult:
    """Return the path as an attack: the smallest L∞ distance at which it found each of N images wrong.

    That is infinite where it found none, or where an image did not walk.
    """
    found = {}
    for record in section["records"]:
        errors = (far for far, right in zip(record["linf"], record["correct"], strict=True) if not right)
        found[record["key"]] = min(errors, default=inf)
    distance = tuple(found.get(key, inf) if right else 0.0 for key, right in zip(keys, clean, strict=True))
    settings = {"steps": section["steps"], "step_size": section["step_size"]}
    settings |= {"images": section["images"], "attacked": len(found)}
    return AttackResult(
        "paper-path", "minimal-norm", "linf", None, tuple(far == inf for far in distance), distance,
        section["forwards"], section["backwards"], section["seconds"], settings,
    )  # fmt: skip


Array = NDArray[np.float64]

INTERPOLATORS = {
    "linear": "each image's 0/1 record is interpolated linearly against its distance and averaged over all images; "
    "beyond its own largest distance an image keeps its last value",
    "authors": "as in the authors' code: the interpolated value is floored to 0 or 1, at 33 L2 and 100 L-infinity "
    "points; images that do not reach a point are left out there, and a point that no more than half reach is dropped; "
    "the state after the last step is not used",
}
AUTHORS_POINTS = {"l2": 33, "linf": 100}
LINEAR_POINTS = 101


@dataclass(frozen=True)
class Curve:
    """Accuracy at growing distances: one interpolator (see `INTERPOLATORS`), one norm (`l2` or `linf`).

    `distance`, `accuracy` in [0, 1], the ends `low` and `high` of its 95 % interval (Wilson's, of the nearest count of
    images), and the number of `images` whose own path reaches the distance are lists of one length.
    """

    interpolator: str
    norm: str
    distance: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]
    images: list[int]


def interpolate_records(distance: Array, correct: Array, points: Array) -> Array:
    """Interpolate each image's record linearly: distances (N, S+1), 0/1 records (N, S+1), P points to values (N, P).

    A path may turn back or stand still, so each record is first sorted by distance, keeping the order of ties: at a
    distance that occurs more than once the last value counts, and the record jumps there. Beyond its largest distance
    an image keeps the value it had there. This is SciPy's `interp1d` on unsorted data, with the last value held.
    """
    order = np.argsort(distance, axis=1, kind="stable")
    rows = zip(np.take_along_axis(distance, order, 1), np.take_along_axis(correct, order, 1), strict=True)
    return np.stack([_interpolate_one(x, y, points) for x, y in rows])


def _interpolate_one(x: Array, y: Array, points: Array) -> Array:
    """Interpolate one sorted record; ties are handled here because np.interp is documented for increasing x only."""
    right = np.searchsorted(x, points, side="right")  # the first record beyond each point
    left = np.maximum(right - 1, 0)
    right = np.minimum(right, len(x) - 1)
    gap = x[right] - x[left]
    share = np.divide(points - x[left], gap, out=np.zeros_like(points), where=gap > 0)
    return y[left] + share * (y[right] - y[left])


def linear_curve(norm: str, distance: Array, correct: Array, points: Array) -> Curve:
    """Average the interpolated records over all images, as the paper's words say."""
    values = interpolate_records(distance, correct, points)
    # float32 pixels blur a distance by about 1e-4 of itself: an image one rounding short of a point has reached it.
    reached = distance.max(1)[:, None] * (1 + 1e-3) >= points
    return _curve("linear", norm, points, values, reached.sum(0))


def authors_curve(norm: str, distance: Array, correct: Array, points: int) -> Curve:
    """Average as the authors' code does (see `INTERPOLATORS`), at evenly spaced points up to the largest distance.

    Their loop scores an image before each step, so that 100 steps give 100 records: the last column is left out here.
    """
    distance, correct = distance[:, :-1], correct[:, :-1]
    scan = np.linspace(distance.min(), distance.max(), points)
    reached = (scan >= distance.min(1)[:, None]) & (scan <= distance.max(1)[:, None])
    kept = reached.sum(0) > len(distance) / 2
    floored = np.floor(interpolate_records(distance, correct, scan[kept]))
    values = np.where(reached[:, kept], floored, np.nan)
    return _curve("authors", norm, scan[kept], values, reached.sum(0)[kept])


def _curve(interpolator: str, norm: str, points: Array, values: Array, images: NDArray[np.int64]) -> Curve:
    """Average values (N, P) over images, leaving out NaN."""
    counts = np.isfinite(values).sum(0)
    totals = np.nansum(values, axis=0)
    ends = [wilson(round(total), int(n)) for total, n in zip(totals.tolist(), counts, strict=True)]
    low, high = map(list, zip(*ends, strict=True))
    accuracy = (totals / np.maximum(counts, 1)).tolist()
    return Curve(interpolator, norm, points.tolist(), accuracy, low, high, images.tolist())


@dataclass(frozen=True)
class Records:
    """What happened to P images at the start and after each of S steps: 0/1 `correct`, `l2` and `linf`, (P, S+1)."""

    keys: tuple[str, ...]
    correct: Array
    l2: Array
    linf: Array

    def chosen(self, keys: Sequence[str]) -> "Records":
        """Return the records of these images alone, in their order."""
        rows = [self.keys.index(key) for key in keys]
        return Records(tuple(keys), self.correct[rows], self.l2[rows], self.linf[rows])

    def mean_values(self, points: Array) -> Array:
        """Return each image's linearly interpolated record, averaged over the points: (P,)."""
        if not self.keys:
            return np.zeros(0)
        values: Array = interpolate_records(self.linf, self.correct, points).mean(1)
        return values


def read_records(documents: Sequence[Mapping[str, Any]]) -> Records:
    """Stack the images' records; raise `ValueError` where their shapes or values make no sense."""
    columns = [np.array([record[name] for record in documents], float) for name in ("correct", "l2", "linf")]
    for array in columns:
        if documents and (array.ndim != 2 or array.shape != columns[0].shape or array.shape[1] < 2):
            raise ValueError("the records of the images do not fit together")
        if not np.isfinite(array).all():
            raise ValueError("a record holds a number that is not finite")
    return Records(tuple(record["key"] for record in documents), *columns)
