"""How many seeds and images a difference needs: half-widths expected from the results of ../work-size.

    python power.py RESULTS SHAPE

A difference's variance is taken apart into training seeds, images, and the seed's chance on each image.
"""

from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np
import typer

from studies.claims.answer import STRONG, Array, read_models, worst

COMPARED = (("C1", "normal"), ("C3", "stylized"), ("K1", "wrong_partner"))
FAMILY_WISE = NormalDist().inv_cdf(1 - 0.05 / len(COMPARED) / 2)


def half_width(first: Array, second: Array, seeds: int, images: int) -> float:
    """Return the expected half-width in points of a difference of two kinds of model, (S, N) each in {0, 1}.

    It is that of an interval which holds for all of `COMPARED` at once with 95 % (Bonferroni).
    """
    measured_seeds, measured_images = first.shape
    chance = (first.var(0, ddof=1) + second.var(0, ddof=1)).mean()
    between_images = (first.mean(0) - second.mean(0)).var(ddof=1) - chance / measured_seeds
    means = first.mean(1).var(ddof=1) + second.mean(1).var(ddof=1)
    between_seeds = max(means - chance / measured_images, 0)
    variance = (between_images + chance / seeds) / images + between_seeds / seeds
    return 100 * FAMILY_WISE * float(np.sqrt(variance))


def main(results: Path, shape: Path) -> None:
    """Print a Markdown table."""
    models = read_models(results, shape)
    left = {name: np.stack([worst(model, STRONG) for model in own]) for name, own in models.items()}
    typer.echo("| seeds | images | C1 | C3 | K1 |\n| --- | --- | --- | --- | --- |")
    for seeds, images in product((3, 5, 8, 10), (300, 1000)):
        widths = [half_width(left["pairing"], left[other], seeds, images) for _, other in COMPARED]
        typer.echo(f"| {seeds} | {images} | {' | '.join(f'± {width:.1f}' for width in widths)} |")


if __name__ == "__main__":
    typer.run(main)
