"""How many seeds and images a difference needs, expected from the results of ../work-size.

    python power.py RESULTS SHAPE

A difference's variance is taken apart into training seeds, images, and the seed's chance on each image. Seeds either
share their images or have images of their own.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import typer

from studies.claims.answer import STRONG, Array, read_models, worst

COMPARED = {"C1": "normal", "C3": "stylized", "K1": "wrong_partner"}
FAMILY_WISE = NormalDist().inv_cdf(1 - 0.05 / len(COMPARED) / 2)
OWN_IMAGES = 400  # of each seed, in the simulation
EXPERIMENTS, RESAMPLES = 4000, 500


class Variance(NamedTuple):
    """Parts of the variance of a difference between two kinds of model."""

    seeds: float
    images: float
    chance: float


def take_apart(first: Array, second: Array) -> Variance:
    """Return the variance of two kinds of model, (S, N) each in {0, 1}, in parts."""
    measured_seeds, measured_images = first.shape
    chance = float((first.var(0, ddof=1) + second.var(0, ddof=1)).mean())
    between_images = float((first.mean(0) - second.mean(0)).var(ddof=1)) - chance / measured_seeds
    means = float(first.mean(1).var(ddof=1) + second.mean(1).var(ddof=1))
    return Variance(max(means - chance / measured_images, 0), between_images, chance)


def half_width(parts: Variance, seeds: int, images: int, own: bool) -> float:
    """Return the expected half-width in points of an interval that holds for all of `COMPARED` with 95 % (Bonferroni).

    `own`: every seed has images of its own, and the variance is that of a bootstrap over seeds, and over images within
    each.
    """
    if own:
        within = (parts.images + parts.chance) / images / seeds
        variance = (1 - 1 / seeds) * (parts.seeds / seeds + within) + within
    else:
        variance = (parts.images + parts.chance / seeds) / images + parts.seeds / seeds
    return 100 * FAMILY_WISE * float(np.sqrt(variance))


def coverage(parts: Variance, seeds: int) -> float:
    """Return the share of simulated experiments whose bootstrapped 95 % interval holds the true difference.

    Means of images, here and in the bootstrap, are drawn from normal distributions.
    """
    rng = np.random.default_rng(0)
    within = np.sqrt((parts.images + parts.chance) / OWN_IMAGES)
    means = rng.normal(0, np.hypot(np.sqrt(parts.seeds), within), (EXPERIMENTS, seeds))
    chosen = np.take_along_axis(means[:, None], rng.integers(seeds, size=(EXPERIMENTS, RESAMPLES, seeds)), 2)
    drawn = rng.normal(chosen, within).mean(2)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    return float(np.mean((low <= 0) & (high >= 0)))


def row(*cells: object) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def tables(parts: Sequence[Variance]) -> str:
    """Return half-widths and coverage as two Markdown tables."""
    lines = [row("seeds", "images", *COMPARED), row(*["---"] * 5)]
    for own, seeds, images in product((False, True), (3, 5, 8, 10), (400, 1000)):
        widths = [f"± {half_width(each, seeds, images, own):.1f}" for each in parts]
        lines.append(row(seeds, f"{images} for each seed" if own else f"{images}, the same", *widths))
    lines += ["", row("seeds", *COMPARED), row(*["---"] * 4)]
    lines += [row(seeds, *(f"{100 * coverage(each, seeds):.0f} %" for each in parts)) for seeds in (1, 2, 3, 8)]
    return "\n".join(lines)


def main(results: Path, shape: Path) -> None:
    """Print both tables."""
    models = read_models(results, shape)
    left = {name: np.stack([worst(model, STRONG) for model in own]) for name, own in models.items()}
    typer.echo(tables([take_apart(left["pairing"], left[other]) for other in COMPARED.values()]))


if __name__ == "__main__":
    typer.run(main)
