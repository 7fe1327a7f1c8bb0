"""Projected gradient descent, single-step attacks, and random noise."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack.attacks.attack import (
    BATCH_SIZE,
    Attacked,
    CountedModel,
    Loss,
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
OVERSHOOT = 2.5  # steps of 2.5 ε / steps can cross the ball from end to end (Madry et al. 2018)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    loss: Loss = "ce",
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    keep_going: bool = False,
) -> Attacked:
    """Ascend x ← P(x + step_size · s(∂loss/∂x)), s the sign (linf) or the unit vector (l2), P into ball and [0, 1].

    The first run starts at the image itself, so that one step of size epsilon is FGSM; each further one of `restarts`
    at a random point of the ball. Returned is, for each image, the misclassified point of the largest loss among those
    visited, or the point of the largest loss where none is misclassified.

    An image is left alone once it is misclassified, and its loss then stands still in `last_losses` (N, up to 10): the
    losses after each of the last steps. With `keep_going` it climbs on to the last step and restart, at the full cost:
    for images that shall fool other models too.

    Args:
        model: maps float32 [0, 1] pixels (B, C, H, W) to logits (B, classes); every module in eval mode.
        images: float32 in [0, 1], (N, C, H, W).
        labels: true labels, int64 (N,).
        epsilon: radius of the ball in `norm`, in units of the [0, 1] range.
        norm: `l2` or `linf`.
        steps: gradient steps of each run.
        step_size: length of a step in the same units; 2.5 · epsilon / steps where not given.
        loss: `ce`, `dlr` or `margin` (see `attack_loss`).
        restarts: runs in all, the one from the image included.
        seed: of the random starts, which depend on nothing else but the place of the image among the N.
        batch_size: images at a time. It changes results by float rounding only.
        keep_going: do not stop at the first misclassified point.

    Raises:
        InputError: a module is in training mode, or an argument is out of range.
    """
    check_images(model, images, labels)
    given = {} if step_size is None else {"step_size": step_size}
    check_numbers(norm, epsilon=epsilon, steps=steps, restarts=restarts, batch_size=batch_size, **given)
    step_size = OVERSHOOT * epsilon / steps if step_size is None else step_size
    ascent = _Ascent(norm, epsilon, steps, step_size, loss, keep_going)
    best = _Best(images, min(LAST, steps + 1))
    generator = torch.Generator().manual_seed(seed)
    with counting(model) as counted:
        for restart in range(restarts):
            starts = random_point(images, epsilon, norm, generator) if restart else images
            left = torch.ones_like(best.wrong) if keep_going else ~best.wrong
            for rows in batches(left, batch_size):
                _climb(counted, ascent, starts[rows], images[rows], labels[rows], best, rows)
    return Attacked(best.images, counted.forwards, counted.backwards, best.last_losses)


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
    first = pgd(model, images, labels, epsilon=1.0, steps=50, batch_size=batch_size)
    with counting(model) as counted:
        rows = batches(torch.ones_like(labels, dtype=torch.bool), batch_size)
        wrong = [counted.scores(first.images[row], labels[row], "ce")[1] for row in rows]
    left = ~torch.cat([labels[:0].bool(), *wrong])
    second = pgd(model, images[left], labels[left], epsilon=1.0, steps=50, loss="margin", batch_size=batch_size)
    found = first.images.index_put((left,), second.images)
    forwards, backwards = first.forwards + counted.forwards + second.forwards, first.backwards + second.backwards
    return Attacked(found, forwards, backwards)


def uniform_noise(images: Tensor, *, epsilon: float, norm: Norm = "linf", seed: int = 0) -> Tensor:
    """Return images (N, C, H, W) with noise drawn uniformly from the ball of radius epsilon, clipped to [0, 1].

    Raises `InputError` for an argument out of range.
    """
    check_numbers(norm, epsilon=epsilon)
    return random_point(images, epsilon, norm, torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class _Ascent:
    norm: Norm
    epsilon: float
    steps: int
    step_size: float
    loss: Loss
    keep_going: bool


class _Best:
    """The worst point found so far for each of N images: misclassified before not, then the larger loss."""

    def __init__(self, images: Tensor, last: int) -> None:
        self.images = images.clone()
        self.losses = torch.full(images.shape[:1], float("-inf"), device=images.device)
        self.wrong = torch.zeros(images.shape[:1], dtype=torch.bool, device=images.device)
        self.last_losses = torch.zeros(len(images), last, device=images.device)

    def update(self, rows: Tensor, images: Tensor, losses: Tensor, wrong: Tensor) -> Tensor:
        """Take the points that are better than what the rows have, and return which were, (B,) bool."""
        better = (wrong & ~self.wrong[rows]) | ((wrong == self.wrong[rows]) & (losses > self.losses[rows]))
        taken = rows[better]
        self.images[taken], self.losses[taken], self.wrong[taken] = images[better], losses[better], wrong[better]
        return better


def _climb(
    counted: CountedModel, ascent: _Ascent, starts: Tensor, origins: Tensor, labels: Tensor, best: _Best, rows: Tensor
) -> None:
    """Run one batch from its starts, and enter into `best` what it finds for the images in `rows`."""
    current, active = starts, torch.arange(len(rows), device=rows.device)
    trace = torch.empty(ascent.steps + 1, len(rows), device=starts.device)
    improved = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for step in range(ascent.steps + 1):
        if step == ascent.steps:
            losses, wrong = counted.scores(current, labels[active], ascent.loss)
        else:
            losses, wrong, gradient = counted.gradients(current, labels[active], ascent.loss)
        trace[step:, active] = losses  # of the steps to come too: an image left alone keeps its loss
        improved[active] |= best.update(rows[active], current, losses, wrong)
        going = torch.ones_like(wrong) if ascent.keep_going else ~wrong
        active = active[going]
        if step == ascent.steps or not len(active):
            break
        moved = current[going] + ascent.step_size * steepest(gradient[going], ascent.norm)
        current = project(moved, origins[active], ascent.epsilon, ascent.norm)
    best.last_losses[rows[improved]] = trace[-best.last_losses.shape[1] :, improved].T
