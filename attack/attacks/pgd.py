"""Projected gradient descent, single-step attacks, and random noise."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from attack.attacks import (
    BATCH_SIZE,
    DUAL,
    TINY,
    Attacked,
    CountedModel,
    Loss,
    LossFunction,
    Norm,
    batches,
    check_images,
    check_numbers,
    counting,
    project,
    random_point,
    steepest,
)

LAST = 10  # steps whose losses are kept
UNBOUNDED_LOSSES: tuple[Loss, ...] = ("ce", "margin")
MANY_CLASSES = 100
OVERSHOOT = 2.5  # few equal steps of 2.5 ε / steps can cross the ball from end to end (Madry et al. 2018)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    loss: Loss | LossFunction = "ce",
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    keep_going: bool = False,
) -> Attacked:
    """Ascend x ← P(x + η · s(∂loss/∂x)), s the sign (linf) or the unit vector (l2), P into ball and [0, 1].

    Step k of K has the length η = ε (1 + cos(π k / K)): it falls from the ball's width to nearly nothing.

    The first run starts at the image itself, so that one step of size epsilon is FGSM; each further one of `restarts`
    at a random point of the ball. Returned is, for each image, the misclassified point of the largest loss among those
    visited, or the point of the largest loss where none is misclassified. An image is left alone once it is
    misclassified, and its loss then stands still in `last_losses` (N, up to 10), the losses after the last steps.

    Args:
        model: maps float32 [0, 1] pixels (B, C, H, W) to logits (B, classes); every module in eval mode.
        images: float32 in [0, 1], (N, C, H, W).
        labels: true labels, int64 (N,).
        epsilon: radius of the ball in units of the [0, 1] range.
        norm: `l2` or `linf`.
        steps: gradient steps of each run.
        step_size: length of every step in the same units, instead of lengths that fall.
        loss: `ce`, `dlr`, `margin` (see `attack_loss`), or a function of logits and labels that returns (B,) losses.
        restarts: runs in all, the one from the image included.
        seed: of the random starts, which depend on nothing else but the place of the image among the N.
        batch_size: images at a time; it changes results by float rounding only.
        keep_going: climb on to the last step and restart, for images that shall fool other models too.

    Raises:
        InputError: a module is in training mode, or an argument is out of range.
    """
    check_images(model, images, labels)
    check_numbers(norm, epsilon=epsilon, steps=steps, restarts=restarts, batch_size=batch_size)
    if step_size is not None:
        check_numbers(step_size=step_size)
    step_sizes = [step_size or epsilon * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    ascent = _Ascent(images, labels, norm, epsilon, step_sizes, keep_going)
    generator = torch.Generator().manual_seed(seed)
    with counting(model) as counted:
        for restart in range(restarts):
            starts = random_point(images, epsilon, norm, generator) if restart else images
            ascent.run(counted, starts, loss, batch_size)
    return Attacked(ascent.images, counted.forwards, counted.backwards, ascent.last_losses)


def targeted(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    targets: int = 9,
    steps: int = 20,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Climb z_t - z_y from the image towards one other class t after the other, until the image is misclassified.

    A class whose logit is nearly the largest, and never becomes it, misleads losses that look for the nearest class. So
    the last run leaves out the class that is nearest at each step, and climbs towards the second nearest.

    The `targets` classes are those of the largest logits; from 100 classes on, of three times as many the nearest ones
    if the logits were linear, by (z_y - z_t) / ‖∂(z_y - z_t)/∂x‖ in the dual norm (MALT, Melamed et al. 2024). Each run
    has `steps` steps; the other arguments, and errors, are as in `pgd`.
    """
    check_images(model, images, labels)
    check_numbers(norm, epsilon=epsilon, targets=targets, steps=steps, batch_size=batch_size)
    ascent = _Ascent(images, labels, norm, epsilon, [OVERSHOOT * epsilon / steps] * steps, keep_going=False)
    with counting(model) as counted:
        every = batches(torch.ones_like(ascent.wrong), batch_size)
        ranked = [_likeliest(counted, images[rows], labels[rows], targets, norm) for rows in every]
        for goals in torch.cat(ranked).unbind(1) if ranked else ():
            ascent.run(counted, images, "margin", batch_size, goals)
        ascent.run(counted, images, _second_nearest, batch_size)
    return Attacked(ascent.images, counted.forwards, counted.backwards)


def _likeliest(counted: CountedModel, images: Tensor, labels: Tensor, count: int, norm: Norm) -> Tensor:
    """Return up to so many other classes for each image (B, count), the likeliest first."""
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = counted(pixels)
        gaps = logits.gather(1, labels[:, None]) - logits
    classes, targets = logits.shape[1], min(count, logits.shape[1] - 1)
    others = gaps.detach().scatter(1, labels[:, None], math.inf)
    few = classes < MANY_CLASSES
    candidates: Tensor = others.topk(targets if few else min(3 * count, classes - 1), largest=False).indices
    if few:
        return candidates
    distances = []
    for column in candidates.unbind(1):
        (gradient,) = torch.autograd.grad(gaps.gather(1, column[:, None]).sum(), pixels, retain_graph=True)
        steepness = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL[norm], dim=1).clamp_min(TINY)
        distances.append(others.gather(1, column[:, None])[:, 0] / steepness)
    return candidates.gather(1, torch.stack(distances, 1).topk(targets, largest=False).indices)


def _towards(goals: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    gaps: Tensor = logits.gather(1, goals[:, None]) - logits.gather(1, labels[:, None])
    return gaps[:, 0]


def _second_nearest(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -math.inf).topk(min(2, logits.shape[1] - 1), dim=1)
    return _towards(others.indices[:, -1], logits, labels)


def single_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Take one step of length epsilon along the cross-entropy's gradient: FGSM (Goodfellow et al. 2015) for linf."""
    return pgd(model, images, labels, epsilon=epsilon, norm=norm, steps=1, step_size=epsilon, batch_size=batch_size)


def unbounded(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = BATCH_SIZE) -> Attacked:
    """Climb with every picture in reach: a working attack leaves no image classified correctly.

    50 steps of 0.05 cross the pixel range two and a half times, along the cross-entropy; then, for images that are
    still right, along the margin, whose gradient is there where a model is sure. An image is left alone once it is
    misclassified.
    """
    check_images(model, images, labels)
    check_numbers(batch_size=batch_size)
    ascent = _Ascent(images, labels, "linf", 1.0, [OVERSHOOT / 50] * 50, keep_going=False)
    with counting(model) as counted:
        for loss in UNBOUNDED_LOSSES:
            ascent.run(counted, images, loss, batch_size)
    return Attacked(ascent.images, counted.forwards, counted.backwards)


def uniform_noise(images: Tensor, *, epsilon: float, norm: Norm = "linf", seed: int = 0) -> Tensor:
    """Return images (N, C, H, W) with noise drawn uniformly from the ball of radius epsilon, clipped to [0, 1].

    Raises `InputError` for an argument out of range.
    """
    check_numbers(norm, epsilon=epsilon)
    return random_point(images, epsilon, norm, torch.Generator().manual_seed(seed))


class _Ascent:
    """Runs of PGD, and the worst point that they found for each of N images.

    That is a misclassified point before any other, then the one of the larger loss.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, norm: Norm, epsilon: float, step_sizes: Sequence[float], keep_going: bool
    ) -> None:
        self.origins, self.labels, self.images = images, labels, images.clone()
        self.norm, self.epsilon, self.step_sizes, self.keep_going = norm, epsilon, step_sizes, keep_going
        self.losses = torch.full(images.shape[:1], -math.inf, device=images.device)
        self.wrong = torch.zeros(images.shape[:1], dtype=torch.bool, device=images.device)
        self.last_losses = torch.zeros(len(images), min(LAST, len(step_sizes) + 1), device=images.device)

    def run(
        self,
        counted: CountedModel,
        starts: Tensor,
        loss: Loss | LossFunction,
        batch_size: int,
        goals: Tensor | None = None,
    ) -> None:
        """Climb from the starts (N, C, H, W) of all images that are not misclassified yet, or towards classes (N,)."""
        self.keep_going |= counted.draws > 1  # one error of a random model may be chance
        left = torch.ones_like(self.wrong) if self.keep_going else ~self.wrong
        for rows in batches(left, batch_size):
            self._climb(counted, starts[rows], loss, rows, goals)

    def _climb(
        self,
        counted: CountedModel,
        current: Tensor,
        loss: Loss | LossFunction,
        rows: Tensor,
        goals: Tensor | None,
    ) -> None:
        active, steps = torch.arange(len(rows), device=rows.device), len(self.step_sizes)
        trace = torch.empty(steps + 1, len(rows), device=current.device)
        improved = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for step in range(steps + 1):
            labels = self.labels[rows[active]]
            if goals is not None:
                loss = partial(_towards, goals[rows[active]])
            if step == steps:
                losses, wrong = counted.scores(current, labels, loss)
            else:
                losses, wrong, gradient = counted.gradients(current, labels, loss)
            trace[step:, active] = losses  # of the steps to come too: an image left alone keeps its loss
            improved[active] |= self._update(rows[active], current, losses, wrong)
            going = torch.ones_like(wrong) if self.keep_going else ~wrong
            active = active[going]
            if step == steps or not len(active):
                break
            moved = current[going] + self.step_sizes[step] * steepest(gradient[going], self.norm)
            current = project(moved, self.origins[rows[active]], self.epsilon, self.norm)
        self.last_losses[rows[improved]] = trace[-self.last_losses.shape[1] :, improved].T

    def _update(self, rows: Tensor, images: Tensor, losses: Tensor, wrong: Tensor) -> Tensor:
        """Take the points that are better than what the rows have, and return which were, (B,) bool."""
        better = (wrong & ~self.wrong[rows]) | ((wrong == self.wrong[rows]) & (losses > self.losses[rows]))
        taken = rows[better]
        self.images[taken], self.losses[taken], self.wrong[taken] = images[better], losses[better], wrong[better]
        return better
