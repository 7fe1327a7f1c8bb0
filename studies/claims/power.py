"""How many seeds and images a difference needs: half-widths expected from the results of ../work-size.

    python power.py RESULTS SHAPE

A difference's variance is taken apart into training seeds, images, and the seed's chance on each image. Seeds either
share their images or have images of their own.
"""

from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np
import typer

from studies.claims.answer import STRONG, Array, read_models, worst

COMPARED = (("C1", "normal"), ("C3", "stylized"), ("K1", "wrong_partner"))
FAMILY_WISE = NormalDist().inv_cdf(1 - 0.05 / len(COMPARED) / 2)


def half_width(first: Array, second: Array, seeds: int, images: int, own: bool) -> float:
    """Return the expected half-width in points of a difference of two kinds of model, (S, N) each in {0, 1}.

    It is that of an interval which holds for all of `COMPARED` at once with 95 % (Bonferroni). `own`: every seed has
    images of its own, and the variance is that of a bootstrap over seeds, and over images within each.
    """
    measured_seeds, measured_images = first.shape
    chance = (first.var(0, ddof=1) + second.var(0, ddof=1)).mean()
    between_images = (first.mean(0) - second.mean(0)).var(ddof=1) - chance / measured_seeds
    means = first.mean(1).var(ddof=1) + second.mean(1).var(ddof=1)
    between_seeds = max(means - chance / measured_images, 0)
    if own:
        within = (between_images + chance) / images / seeds
        variance = (1 - 1 / seeds) * (between_seeds / seeds + within) + within
    else:
        variance = (between_images + chance / seeds) / images + between_seeds / seeds
    return 100 * FAMILY_WISE * float(np.sqrt(variance))


def main(results: Path, shape: Path) -> None:
    """Print a Markdown table."""
    models = read_models(results, shape)
    left = {name: np.stack([worst(model, STRONG) for model in own]) for name, own in models.items()}
    typer.echo("| seeds | images | C1 | C3 | K1 |\n| --- | --- | --- | --- | --- |")
    for own, seeds, images in product((False, True), (3, 5, 8, 10), (400, 1000)):
        widths = [half_width(left["pairing"], left[other], seeds, images, own) for _, other in COMPARED]
        met = f"{images} for each seed" if own else f"{images}, the same"
        typer.echo(f"| {seeds} | {met} | {' | '.join(f'± {width:.1f}' for width in widths)} |")


if __name__ == "__main__":
    typer.run(main)
