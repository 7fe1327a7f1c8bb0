"""Norms: steepest directions, projections and random points, for images (B, C, H, W) in [0, 1]."""

import math

import torch
from torch import Generator, Tensor

from attack.attacks.attempt import Norm
from stylize.errors import InputError

TINY = 1e-12  # keeps a zero vector from being divided by zero


def check_norm(norm: str) -> None:
    """Raise `InputError` unless the norm is one of those that attacks know."""
    if norm not in ("l2", "linf"):
        raise InputError(f"Norm is {norm!r}: give l2 or linf.")


def per_image(numbers: Tensor) -> Tensor:
    """Give one number an image (B,) the shape (B, 1, 1, 1)."""
    return numbers[:, None, None, None]


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each perturbation, (B,)."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the step of size 1 that raises a linear loss most: the sign (linf), or the gradient over its length (l2).

    A gradient that is not finite counts as 0, so that images stay images.
    """
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    if norm == "linf":
        return gradient.sign()
    return gradient / per_image(size(gradient, "l2").clamp_min(TINY))


def project(current: Tensor, origin: Tensor, epsilon: float | Tensor, norm: Norm) -> Tensor:
    """Move images back into the ball of radius epsilon, one for all or (B, 1, 1, 1), around `origin`, then into [0, 1].

    Clipping moves every pixel towards `origin`, which lies in [0, 1]: the result is in the ball still.
    """
    delta = current - origin
    if norm == "linf":
        radius = torch.as_tensor(epsilon, dtype=delta.dtype, device=delta.device)
        delta = delta.clamp(-radius, radius)
    else:
        delta = delta * (epsilon / per_image(size(delta, "l2").clamp_min(TINY))).clamp_max(1)
    return (origin + delta).clamp(0, 1)


def random_point(images: Tensor, epsilon: float, norm: Norm, generator: Generator) -> Tensor:
    """Return a point drawn uniformly from the ball around each image, clipped to [0, 1].

    The generator lives on the CPU, so that every device attacks from the same points.
    """
    if norm == "linf":
        delta = torch.rand(images.shape, generator=generator) * 2 - 1
    else:  # a uniform direction, and a radius r with P(r < t) = t^dimensions
        delta = torch.randn(images.shape, generator=generator)
        radius = torch.rand(len(images), generator=generator) ** (1 / math.prod(images.shape[1:]))
        delta = delta * per_image(radius / size(delta, "l2").clamp_min(TINY))
    return project(images + epsilon * delta.to(images.device), images, epsilon, norm)
