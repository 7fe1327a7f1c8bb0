"""Accuracies with their uncertainty, from the records of a result."""

from dataclasses import dataclass

import numpy as np

from attack.evaluation.interpolation import LINEAR_POINTS, Array, interpolate_records
from attack.evaluation.results import Result


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its standard error, both as fractions."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.error:.1f} %".replace(" ", "\N{NO-BREAK SPACE}")


def accuracy_at(result: Result, linf: float) -> Estimate:
    """Return the accuracy at one L∞ distance (linear interpolation)."""
    return _estimate(_values(result, np.array([linf]))[:, 0])


def mean_accuracy(result: Result) -> Estimate:
    """Return the accuracy averaged over the attack's whole L∞ range: the height of the curve in one number."""
    return _estimate(_values(result, np.linspace(0, result.largest_linf, LINEAR_POINTS)).mean(1))


def _values(result: Result, points: Array) -> Array:
    return interpolate_records(result.records.linf, result.records.correct, points)


def _estimate(values: Array) -> Estimate:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), float(error))
