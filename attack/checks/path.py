"""Checks on the paper's attack path: each looks at what the attack did to its images."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from attack.attacks.fgsm import AttackPath
from attack.checks.check import Check

RECOVERED = 0.02  # single images do cross the boundary back: so many, and one in a small set, are no sign
ROUNDING = 1e-3  # of the budget: float32 rounding of each addition


def check_path(path: AttackPath, clean: Sequence[bool], *, steps: int, step_size: float) -> Iterator[Check]:
    """Check what the attack did to its N images.

    `clean` (N) tells which of them an independent pass, in other batches or by another load of the model, classified
    correctly; `steps` and `step_size` are what the attack was asked for.
    """
    yield _finite(path)
    yield _starts_clean(path, clean)
    yield _gradients(path)
    yield _loss_rises(path)
    yield _never_helps(path)
    yield _pixels(path)
    yield _distance(path, steps * step_size)


def _finite(path: AttackPath) -> Check:
    broken = ~(path.finite & path.loss.isfinite().all(1))
    return Check(
        "finite on the path",
        not broken.any(),
        f"{_of(broken)} had a logit or loss that was not",
        "Logits that overflow have no usable gradient, and their images count as they fall.",
        {"images": _count(broken)},
    )


def _starts_clean(path: AttackPath, clean: Sequence[bool]) -> Check:
    differs = path.correct[:, 0] != torch.tensor(clean)
    return Check(
        "ε = 0 equals clean",
        not differs.any(),
        f"{_of(differs)} judged otherwise before the first step than by the clean pass",
        "The model under attack is not the model whose accuracy is reported.",
        {"images": _count(differs)},
    )


def _gradients(path: AttackPath) -> Check:
    elements = path.images[0].numel()
    blind = (path.zero_gradients == elements).any(1)
    share = path.zero_gradients.double().mean().item() / elements
    return Check(
        "no zero gradients on the path",
        not blind.any(),
        f"{_of(blind)} met an all-zero gradient; {share:.2%} of elements",
        "Where the gradient is zero the attack stands still, and the image counts as robust.",
        {"images": _count(blind), "elements": share},
        "masking",
    )


def _loss_rises(path: AttackPath) -> Check:
    first, last = path.loss[:, 0], path.loss[:, -1]
    before, after = first.mean().item(), last.mean().item()
    return Check(
        "loss rises",
        after > before,
        f"mean loss {before:.3g} → {after:.3g}; {_of(last < first)} ended with a lower loss",
        "An attack that does not raise the loss is not an attack: its gradient points nowhere.",
        {"first": before, "last": after},
        "masking",
    )


def _never_helps(path: AttackPath) -> Check:
    accuracy = path.correct.double().mean(0)
    worst = int(accuracy.argmin())
    lowest, last = accuracy[worst].item(), accuracy[-1].item()
    silent = ~path.correct.all(1) & path.correct[:, -1]
    return Check(
        "a longer path never helps",
        (last - lowest) * len(path.correct) <= max(1.0, RECOVERED * len(path.correct)) + 1e-9,
        f"lowest accuracy {lowest:.1%} at step {worst}, last {last:.1%}; {_of(silent)} wrong on the way only",
        "Images that come back had been broken: the end of the path hides successes (silent success).",
        {"lowest": lowest, "last": last, "silent": _count(silent)},
        "masking",
    )


def _pixels(path: AttackPath) -> Check:
    low, high = path.images.amin().item(), path.images.amax().item()
    return Check(
        "pixels in [0, 1]",
        0 <= low <= high <= 1,
        f"attacked pixels lie in [{low:.6g}, {high:.6g}]",
        "Pixels outside the range are no images, and a model may fail on them for that alone.",
        {"low": low, "high": high},
    )


def _distance(path: AttackPath, budget: float) -> Check:
    largest = path.linf.amax().item()
    return Check(
        "distance within budget",
        largest <= budget * (1 + ROUNDING),
        f"largest L∞ {largest:.6g} of {budget:.6g}",
        "Images changed by more than the stated distance say nothing about that distance.",
        {"largest": largest, "budget": budget},
    )


def _count(selected: Tensor) -> int:
    return int(selected.sum())


def _of(selected: Tensor) -> str:
    return f"{_count(selected)} of {len(selected)} images"
