"""The paper's attack: repeated sign-gradient ascent, recorded after every step."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from attack.attacks import check_images, check_numbers, counting, size
from stylize.console import InputError

# What an element with a zero gradient does: `stay` where it is (sign(0) = 0), or step by -1 as in the authors' code.
ZERO_GRADIENT = ("stay", "minus-one")


@dataclass(frozen=True)
class AttackPath:
    """What happened to B images at the start (column 0) and after each of S steps.

    `correct` (B, S+1) bool; `loss` (B, S+1) float32 cross-entropy of the true label; `l2` and `linf` (B, S+1) float64
    distances to the start, of all pixels in units of the [0, 1] range; `zero_gradients` (B, S) int64 elements whose
    gradient was exactly zero; `images` (B, C, H, W) float32 after the last step.
    """

    correct: Tensor
    loss: Tensor
    l2: Tensor
    linf: Tensor
    zero_gradients: Tensor
    images: Tensor


def join_paths(paths: Iterable[AttackPath]) -> AttackPath:
    """Join the paths of successive batches along the batch dimension, on the CPU."""
    parts = list(paths)
    return AttackPath(*(torch.cat([getattr(part, field.name).cpu() for part in parts]) for field in fields(AttackPath)))


def fgsm_path(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    step_size: float = 1e-4,
    steps: int = 100,
    zero_gradient: str = "stay",
) -> AttackPath:
    """Attack each image by sign-gradient ascent: x ← clip(x + step_size · sign(∂CE(model(x), label)/∂x), 0, 1).

    Args:
        model: maps float32 [0, 1] pixels (B, C, H, W) to logits (B, classes); every module in eval mode.
        images: float32 in [0, 1], (B, C, H, W).
        labels: true labels, int64 (B,).
        step_size: added to or taken from each pixel in each step (1 = the full pixel range).
        steps: number of steps.
        zero_gradient: `stay`, or `minus-one` as in the authors' code.

    Raises:
        InputError: a module is in training mode, or an argument is out of range.
    """
    check_numbers(steps=steps, step_size=step_size)
    if zero_gradient not in ZERO_GRADIENT:
        raise InputError(f"Zero gradient is {zero_gradient!r}: give {' or '.join(ZERO_GRADIENT)}.")
    check_images(model, images, labels)
    current, origin = images.detach().clone(), images.double()
    losses, right, l2, linf, zeros = [], [], [], [], []
    with counting(model) as counted:
        for step in range(steps + 1):
            # Distances come from the pixels reached: float32 additions of 1e-4 do not add up to exactly step · 1e-4.
            move = current.double() - origin
            l2.append(size(move, "l2"))
            linf.append(size(move, "linf"))
            if step < steps:
                loss, wrong, gradient = counted.gradients(current, labels, "ce")
                zeros.append((gradient == 0).flatten(1).sum(1))
                direction = gradient.sign() if zero_gradient == "stay" else (gradient > 0).to(gradient.dtype) * 2 - 1
                current = (current + step_size * direction).clamp(0, 1)
            else:
                loss, wrong = counted.scores(current, labels, "ce")
            losses.append(loss)
            right.append(~wrong)
    correct, loss, moved, farthest, zero = (torch.stack(column, 1) for column in (right, losses, l2, linf, zeros))
    return AttackPath(correct, loss, moved, farthest, zero, current)
