"""The few numbers that a result comes down to."""

from typing import Any

from attack.checks.intervals import wilson
from attack.evaluation.results import Result
from attack.evaluation.statistics import Share, share
from attack.evaluation.worst_case import worst_case


def whole_split(result: Result) -> Share:
    """Return the clean accuracy over the whole test split."""
    correct, n = result.document["clean"]["correct"], result.document["clean"]["images"]
    return Share(correct / n, *wilson(correct, n), n)


def robust_shares(result: Result) -> dict[float, Share]:
    """Return by L∞ radius the worst case over all attempts, clean errors counted; none where no attack had a radius."""
    if all(attempt.epsilon is None for attempt in result.attempts):
        return {}
    return {epsilon: share(worst_case(result.clean, result.attempts, "linf", epsilon)) for epsilon in result.epsilons}


def metrics(result: Result) -> dict[str, Any]:
    """Return the columns of `dvc metrics show`: clean and robust accuracies in [0, 1], and the verdict."""
    robust = {f"robust_{_column(epsilon)}": round(one.mean, 4) for epsilon, one in robust_shares(result).items()}
    return {"verdict": result.verdict.word, "clean": round(whole_split(result).mean, 4), **robust}


def _column(epsilon: float) -> str:
    levels = 255 * epsilon
    return f"{levels:.0f}_of_255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:.4g}"
