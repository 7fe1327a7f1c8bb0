"""The smallest perturbation that changes the answer: FMN (Pintor et al. 2021), from inside and from outside."""

import math

import torch
from torch import Tensor, nn

from attack.attacks import (
    BATCH_SIZE,
    DUAL,
    TINY,
    Attacked,
    CountedModel,
    Norm,
    batches,
    check_images,
    check_numbers,
    counting,
    per_image,
    project,
    size,
    steepest,
)

# Steps and changes of the radius, both in radii, which fall from the first to the second along a half cosine.
STEP_SIZE, RADIUS_CHANGE = (1.0, 0.01), (0.2, 0.001)
STARTS = (1, 10)  # first radii, in distances to a linear model's boundary
# How far beyond the boundary a point must lie, in margins of the clean image, so that rounding does not bring it back.
BEYOND = 1e-4


def minimal_norm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    steps: int = 100,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Look for the nearest misclassified image: climb the margin inside a ball whose radius follows the boundary.

    A half of the steps begins with the radius at the distance to the boundary of a linear model, |margin| / ‖gradient‖
    in the dual norm, the other half at ten times that: from outside it finds errors in other directions, and the nearer
    one counts. The radius is multiplied by 1 - γ after each misclassified point and by 1 + γ after each other one. A
    step is x ← P(x + α · radius · s), with the sign (linf) or unit vector (l2) s of the margin's gradient, and P into
    the ball and [0, 1]. In the paper, which begins inside alone, steps are of length α whatever the radius.

    Returned is the nearest misclassified point of each image; the image itself where it is wrong already, or where
    none was found, which a pass over the returned images tells apart.

    `norm` is the distance to make small, `steps` the number of points visited, each with one pass forwards and one
    backwards, `seed` that of the directions taken where a gradient is zero; the rest, and errors, are as in `pgd`.
    """
    check_images(model, images, labels)
    check_numbers(norm, steps=steps, batch_size=batch_size)
    found, right = images.clone(), torch.ones_like(labels, dtype=torch.bool)
    detours = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    with counting(model) as counted:
        for rows in batches(right, batch_size):
            right[rows] = ~counted.scores(images[rows], labels[rows], "margin")[1]
        for rows in batches(right, batch_size):
            best, nearest = images[rows], torch.full(rows.shape, math.inf, device=images.device)
            for start, some in zip(STARTS, (steps - steps // 2, steps // 2), strict=True):
                other, distance = _approach(counted, images[rows], labels[rows], detours[rows], norm, some, start)
                best[distance < nearest], nearest = other[distance < nearest], distance.minimum(nearest)
            found[rows] = best
    return Attacked(found, counted.forwards, counted.backwards)


def _approach(
    counted: CountedModel, images: Tensor, labels: Tensor, detours: Tensor, norm: Norm, steps: int, start: float
) -> tuple[Tensor, Tensor]:
    """Return the nearest misclassified points (B, C, H, W) found for images that are right, and how near they are (B,).

    The distance is infinite where none was found.
    """
    current, best = images, images.clone()
    nearest = torch.full(images.shape[:1], math.inf, device=images.device)
    radius, widest = nearest, size(torch.maximum(images, 1 - images), norm)
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        alpha, gamma = (last + (first - last) * cosine for first, last in (STEP_SIZE, RADIUS_CHANGE))
        margin, _, gradient = counted.gradients(current, labels, "margin")
        if step == 0:
            beyond = BEYOND * margin.abs()
        fooled, distance = margin > beyond, size(current - images, norm)
        better = fooled & (distance < nearest)
        best[better], nearest = current[better], torch.where(better, distance, nearest)
        steepness = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL[norm], dim=1).clamp_min(TINY)
        # The estimate grows too: a step exactly onto the boundary would never cross it.
        wider = (1 + gamma) * torch.where(nearest.isfinite(), radius, distance + margin.abs() / steepness)
        radius = torch.where(fooled, torch.minimum(radius * (1 - gamma), nearest), wider)
        radius = (radius if step else start * wider).minimum(widest)
        move = per_image(alpha * radius) * _direction(gradient, detours, norm)
        current = project(current + move, images, per_image(radius), norm)
    return best, nearest


def _direction(gradient: Tensor, detours: Tensor, norm: Norm) -> Tensor:
    """Return the `steepest` steps of gradients, and of detours in the place of those that are zero or not finite."""
    length = size(gradient, "l2")
    usable = length.isfinite() & (length > 0)
    return steepest(torch.where(per_image(usable), gradient, detours), norm)
