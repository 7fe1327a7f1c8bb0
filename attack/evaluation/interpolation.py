"""From 0/1 records along each image's path to accuracy as a function of distance, in the two ways that are in use."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attack.checks.intervals import wilson

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
    intervals = [wilson(round(total), int(n)) for total, n in zip(totals.tolist(), counts, strict=True)]
    low, high = ([interval[end] for interval in intervals] for end in (0, 1))
    mean = (totals / np.maximum(counts, 1)).tolist()
    return Curve(interpolator, norm, points.tolist(), mean, low, high, images.tolist())
