"""The smallest perturbation that changes the answer: FMN (Pintor et al. 2021); for L2 DDN too (Rony et al. 2019)."""

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

# The paper's step sizes and changes of the radius, which fall from the first to the second along a half cosine.
STEP_SIZE, RADIUS_CHANGE = (1.0, 0.01), (0.05, 0.001)
# How far beyond the boundary a point must lie, in margins of the clean image, so that rounding does not bring it back.
BEYOND = 1e-4
DDN_CHANGE = 0.05  # of DDN's radius at each step


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

    The radius starts at the distance to the boundary of a linear model, |margin| / ‖gradient‖ in the dual norm, and is
    multiplied by 1 - γ after each misclassified point and by 1 + γ after each other one. A step is
    x ← P(x + α · g / ‖g‖₂), with the margin's gradient g and P into the ball and [0, 1]. For L2 a half of the steps is
    DDN's, along the cross-entropy and on the sphere of such a radius: it finds other points, and the nearer one counts.

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
            of_ddn = steps // 2 if norm == "l2" else 0
            best, nearest = _approach(counted, images[rows], labels[rows], detours[rows], norm, steps - of_ddn)
            if of_ddn:
                other, distance = _decouple(counted, images[rows], labels[rows], of_ddn)
                best[distance < nearest] = other[distance < nearest]
            found[rows] = best
    return Attacked(found, counted.forwards, counted.backwards)


def _approach(
    counted: CountedModel, images: Tensor, labels: Tensor, detours: Tensor, norm: Norm, steps: int
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
        radius = torch.where(fooled, torch.minimum(radius * (1 - gamma), nearest), wider).minimum(widest)
        current = project(current + alpha * _direction(gradient, detours), images, per_image(radius), norm)
    return best, nearest


def _decouple(counted: CountedModel, images: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return what `_approach` does, by DDN: direction and L2 norm of the perturbation are decoupled."""
    current, best, nearest = images, images, torch.full(images.shape[:1], math.inf, device=images.device)
    radius, widest = torch.ones_like(nearest), size(torch.maximum(images, 1 - images), "l2")
    for step in range(steps):
        first, last = STEP_SIZE
        alpha = last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2
        _, wrong, gradient = counted.gradients(current, labels, "ce")
        distance = size(current - images, "l2")
        better = wrong & (distance < nearest)
        best, nearest = torch.where(per_image(better), current, best), torch.where(better, distance, nearest)
        radius = torch.where(wrong, radius * (1 - DDN_CHANGE), radius * (1 + DDN_CHANGE)).minimum(widest)
        move = steepest(current - images + alpha * steepest(gradient, "l2"), "l2")
        current = (images + per_image(radius) * move).clamp(0, 1)
    best = (images + (1 + BEYOND) * (best - images)).clamp(0, 1)
    holds = counted.scores(best, labels, "ce")[1]
    return best, torch.where(holds, size(best - images, "l2"), math.inf)


def _direction(gradient: Tensor, detours: Tensor) -> Tensor:
    """Return gradients of length 1, and detours of length 1 in the place of those that are zero or not finite."""
    length = size(gradient, "l2")
    usable = length.isfinite() & (length > 0)
    vector = torch.where(per_image(usable), gradient, detours)
    return vector / per_image(size(vector, "l2").clamp_min(TINY))
