"""Shares with intervals, paired differences, and corrections for many comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from attack.checks.robustness import wilson

Array = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.05


@dataclass(frozen=True)
class Share:
    """An accuracy over n images, with Wilson's 95 % interval: `mean`, `low` and `high` in [0, 1]."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def share(values: Sequence[bool] | Array) -> Share:
    """Return the mean of values in [0, 1], one an image, with the Wilson interval of the nearest count of images.

    Values between 0 and 1 spread no more than zeros and ones of the same mean: the interval is wide enough for both.
    """
    n = len(values)
    total = float(np.sum(values))
    low, high = wilson(round(total), n)
    return Share(total / n if n else 0.0, low, high, n)


def count_share(successes: int, n: int) -> dict[str, float | int | None]:
    """Return a share of n images with Wilson's 95 % interval, as a result holds it; null where there are none."""
    low, high = wilson(successes, n)
    return {"share": successes / n if n else None, "low": low, "high": high, "successes": successes, "n": n}


@dataclass(frozen=True)
class Difference:
    """How much better `first` is than `second` on the same images: mean and interval in [-1, 1], and p-values.

    `adjusted` is Holm's p-value, which counts how many pairs were compared; a tie is a difference that chance explains.
    The interval is as wide as that correction asks for: it holds 0 where there is a tie, and only there.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def tie(self) -> bool:
        """Whether chance explains the difference at the 5 % level over all pairs."""
        return self.adjusted > LEVEL


def compare(methods: Mapping[str, Array], seed: int = 0) -> list[Difference]:
    """Compare all pairs of methods, each given as values (S, N) of S trained models on the same N images.

    Intervals are bootstrapped over images, and over models where a method has several that differ in their training
    seed. p is the larger of two: that of the bootstrap, and that of a sign-flip test over images, which is exact where
    few images differ. Both are seeded. All pairs of a call share Holm's correction (Holm 1979).
    """
    return compare_family([methods], seed)[0]


def compare_family(
    measured: Sequence[Mapping[str, Array]], seed: int = 0, own_images: bool = False
) -> list[list[Difference]]:
    """Compare all pairs of methods within each of several measurements; all of them share one correction.

    `own_images`: row s of every method is of a training seed, met by images that no other seed has. The bootstrap then
    draws seeds, and images within each drawn one.
    """
    pairs = [(number, *pair) for number, methods in enumerate(measured) for pair in combinations(methods, 2)]
    test = _test_own_images if own_images else _test
    tested = [test(measured[number][first], measured[number][second], seed) for number, first, second in pairs]
    adjusted = holm([p for *_, p in tested])
    levels = _levels([p for *_, p in tested], adjusted)
    found: list[list[Difference]] = [[] for _ in measured]
    for (number, first, second), (mean, drawn, p), fair, level in zip(pairs, tested, adjusted, levels, strict=True):
        low, high = (float(end) for end in np.quantile(drawn, [level / 2, 1 - level / 2]))
        if fair > LEVEL:  # the exact test alone may speak for a tie
            low, high = min(low, 0.0), max(high, 0.0)
        found[number].append(Difference(first, second, mean, low, high, p, fair))
    return found


def _levels(p_values: Sequence[float], adjusted: Sequence[float]) -> list[float]:
    """Return the level at which Holm's procedure tests each of m p-values: 5 % / (m - k + 1) for the k-th smallest.

    From the first that is not rejected on, all have its level.
    """
    order = np.argsort(p_values, kind="stable")
    rejected = sum(fair <= LEVEL for fair in adjusted)
    levels = [0.0] * len(order)
    for rank, index in enumerate(order):
        levels[index] = LEVEL / (len(order) - min(rank, rejected))
    return levels


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: the k-th smallest of m times m - k + 1, never below those before it."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _test(first: Array, second: Array, seed: int) -> tuple[float, Array, float]:
    """Return the mean, resampled means and p of first - second, values (S, N) and (T, N)."""
    rng = np.random.default_rng(seed)
    n = first.shape[1]
    weights = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    drawn = _resample(first, weights, rng) - _resample(second, weights, rng)
    gaps = first.mean(0) - second.mean(0)
    return float(gaps.mean()), drawn, max(_p_bootstrap(drawn), _sign_flip(gaps, rng))


def _test_own_images(first: Array, second: Array, seed: int) -> tuple[float, Array, float]:
    """Return the same for values (S, N) of S training seeds, each of which has N images of its own."""
    rng = np.random.default_rng(seed)
    gaps = first - second
    seeds, images = gaps.shape
    drawn = np.zeros(RESAMPLES)
    for _ in range(seeds):
        chosen = rng.integers(seeds, size=(RESAMPLES, 1)), rng.integers(images, size=(RESAMPLES, images))
        drawn += gaps[chosen].mean(1) / seeds
    return float(gaps.mean()), drawn, max(_p_bootstrap(drawn), _sign_flip(gaps.ravel(), rng))


def _p_bootstrap(drawn: Array) -> float:
    """Return the two-sided p of 0 among resampled means."""
    beyond = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    return min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1))


def _resample(values: Array, weights: Array, rng: np.random.Generator) -> Array:
    """Return the mean of values (S, N) under image weights (B, N), over models drawn anew for each of B resamples."""
    models = len(values)
    drawn = rng.multinomial(models, np.full(models, 1 / models), len(weights)) / models
    mean: Array = ((weights @ values.T) * drawn).sum(1)
    return mean


def _sign_flip(gaps: Array, rng: np.random.Generator) -> float:
    """Return the share of random sign flips of the images' differences whose mean is as far from 0 as it is."""
    differing = gaps[np.abs(gaps) > 1e-12]
    signs = rng.choice([-1.0, 1.0], (RESAMPLES, len(differing)))
    as_far = np.abs(signs @ differing) >= abs(differing.sum()) - 1e-9
    return float((as_far.sum() + 1) / (RESAMPLES + 1))
