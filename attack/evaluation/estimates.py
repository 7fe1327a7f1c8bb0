"""Accuracy along the paper's path, in numbers."""

import numpy as np

from attack.evaluation.interpolation import LINEAR_POINTS, Array, interpolate_records
from attack.evaluation.records import Records
from attack.evaluation.statistics import Share, share


def accuracy_at(records: Records, linf: float) -> Share:
    """Return the accuracy at one L∞ distance (linear interpolation)."""
    return share(path_values(records, np.array([linf])))


def mean_accuracy(records: Records, largest_linf: float) -> Share:
    """Return the accuracy averaged over the whole L∞ range: the height of the curve in one number."""
    return share(path_values(records, np.linspace(0, largest_linf, LINEAR_POINTS)))


def path_values(records: Records, points: Array) -> Array:
    """Return each image's linearly interpolated record, averaged over the points: (P,)."""
    if not records.keys:
        return np.zeros(0)
    values: Array = interpolate_records(records.linf, records.correct, points).mean(1)
    return values
