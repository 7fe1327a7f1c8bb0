"""Figure 6 as a picture: images, and beside each what models go by, the rest paled."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attack.evaluation.explanations import Explanation

SIDE = 160  # pixels at least, so that outlines are thin on small images
SHOWN_SHARE = 0.15  # of the superpixels, those with the largest positive weights
OUTLINE = (255, 214, 0)
PALE = 0.25  # of the contrast left outside


def explanation_overlay(explanation: Explanation, model: int) -> NDArray[np.uint8]:
    """Return the image, enlarged to 160 pixels or more, with the superpixels outlined that speak most for its class.

    All but those with the largest positive weights, at most 15 % of them, are pale grey.
    """
    scale = -(-SIDE // min(explanation.segments.shape))
    pixels = explanation.pixels.repeat(scale, 0).repeat(scale, 1)
    segments = explanation.segments.repeat(scale, 0).repeat(scale, 1)
    weights = explanation.weights[model]
    best = np.argsort(-weights, kind="stable")[: max(1, round(SHOWN_SHARE * len(weights)))]
    shown = np.isin(segments, best[weights[best] > 0])
    grey = pixels.mean(2, keepdims=True)
    overlay = np.where(shown[..., None], pixels, 255 - PALE * (255 - grey)).round().astype(np.uint8)
    inside = np.pad(shown, 1, mode="edge")
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    overlay[shown & ~core] = OUTLINE
    return overlay


def explanations_png(explanations: Sequence[Explanation], names: Sequence[str]) -> bytes:
    """Draw one row an image and one column a model, named; the same arguments give the same bytes."""
    columns = ("image", *names)
    figure = Figure(figsize=(2.1 * len(columns), 2.1 * len(explanations) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(explanations), len(columns), squeeze=False)
    for row, explanation in zip(grid, explanations, strict=True):
        overlays = [explanation_overlay(explanation, model) for model in range(len(names))]
        for axes, picture in zip(row, (explanation.pixels, *overlays), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(explanation.class_name, fontsize=9, parse_math=False)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=9, parse_math=False, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
