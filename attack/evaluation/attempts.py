"""One planned attack on the images that it is for, judged by a pass of its own."""

import time
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.attacks.attempt import Attacked, Attempt, Norm
from attack.evaluation.config import AttackConfig
from attack.evaluation.images import ImageSet
from attack.evaluation.suite import Planned
from attack.evaluation.worst_case import worst_case


class Judged(NamedTuple):
    """What became of B attacked images: still right, their cross-entropy before and after, and how far they moved."""

    robust: list[bool]
    first: float
    last: float
    distance: list[float]


def run_attempt(
    planned: Planned,
    model: nn.Module,
    images: ImageSet,
    clean: Sequence[bool],
    earlier: Sequence[Attempt],
    config: AttackConfig,
) -> Attempt:
    """Attack the images that `planned` is for, and return what became of all N.

    Images that the model gets wrong as they are meet no attack. Others that an attack leaves out (see `Planned`) keep
    the state that the earlier attempts within its radius left them in, so that `robust` is the attack's own where it
    looked, and the worst case so far elsewhere; `settings` says how many images it looked at, and how many it met.
    """
    started = time.perf_counter()
    before = clean if planned.epsilon is None else worst_case(clean, earlier, planned.norm, planned.epsilon)
    looked_at = min(len(clean), config.strong_images) if planned.strong else len(clean)
    candidates = before if planned.survivors else clean
    rows = [index for index in range(looked_at) if candidates[index]]
    pixels, labels = images.pixels[rows], images.labels[rows]
    attacked = planned.attack(model, pixels, labels) if rows else Attacked(pixels, 0, 0)
    judged = judge(model, pixels, attacked.images, labels, planned.norm, config.batch_size)
    robust, distance = _states(planned, before, clean, rows, judged)
    return Attempt(
        planned.name,
        planned.kind,
        planned.norm,
        planned.epsilon,
        robust,
        distance,
        attacked.forwards + 2 * len(rows),
        attacked.backwards,
        round(time.perf_counter() - started, 2),
        {**planned.settings, "images": looked_at, "attacked": len(rows)},
        _losses(judged, attacked.last_losses) if rows and planned.kind in ("white-box", "unbounded") else {},
    )


def _states(
    planned: Planned, before: Sequence[bool], clean: Sequence[bool], rows: Sequence[int], judged: Judged
) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Return who withstood the attack and how far each of N images was moved."""
    robust = list(before)
    distance = [inf if planned.epsilon is None and right else 0.0 for right in clean]
    for index, withstood, moved in zip(rows, judged.robust, judged.distance, strict=True):
        robust[index] = withstood
        distance[index] = inf if planned.epsilon is None and withstood else moved
    return tuple(robust), tuple(distance)


def judge(model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor, norm: Norm, batch_size: int) -> Judged:
    """Classify images (B, C, H, W) and their attacked versions afresh, in float32, and measure distances in float64."""
    robust, first, last = [], [], []
    batches = (torch.split(part, batch_size) for part in (images, attacked, labels))
    for before, after, truth in zip(*batches, strict=True):
        with torch.no_grad(), torch.autocast(before.device.type, enabled=False):
            start, end = model(before), model(after)
        first += F.cross_entropy(start, truth, reduction="none").tolist()
        last += F.cross_entropy(end, truth, reduction="none").tolist()
        robust += (end.argmax(1) == truth).tolist()
    moves = (attacked.double() - images.double()).flatten(1)
    distance = moves.abs().amax(1) if norm == "linf" else moves.norm(dim=1)
    count = max(len(labels), 1)
    return Judged(robust, sum(first) / count, sum(last) / count, distance.tolist())


def _losses(judged: Judged, last_losses: Tensor | None) -> dict[str, float]:
    """Summarise for checks: mean cross-entropy before and after, and how much of the loss the last steps still gave."""
    losses = {"first": judged.first, "last": judged.last}
    if last_losses is not None and last_losses.shape[1] > 1:
        means = last_losses.double().mean(0)
        change = (means[-1] - means[0]) / means[0].abs().clamp_min(1e-12)
        losses["change_last_10"] = float(change)
    return losses
