"""Cheap checks that an evaluation can be believed at all; each is stored and printed with its result."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attack.attacks.fgsm import AttackPath
from attack.checks.check import Check


def check_model(model: nn.Module, images: Tensor) -> Iterator[Check]:
    """Check the model on images (B, C, H, W): eval mode, float32, and repeatable, finite logits."""
    modules = list(model.modules())
    training = sum(module.training for module in modules)
    yield Check("eval mode", training == 0, f"{training} of {len(modules)} modules in training mode")
    with torch.no_grad():
        first, second = model(images), model(images)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in (*model.parameters(), first)}
    yield Check("float32", kinds == {"float32"}, f"parameters and logits are {', '.join(sorted(kinds))}; no autocast")
    difference = (first - second).abs().amax().item()
    yield Check("repeatable", torch.equal(first, second), f"two passes differ by at most {difference:.3g}")
    probabilities = bool((first >= 0).all() and torch.allclose(first.sum(1), torch.ones_like(first[:, 0]), atol=1e-4))
    low, high = first.amin().item(), first.amax().item()
    yield Check(
        "logits, not probabilities", not probabilities, f"outputs on clean images lie in [{low:.3g}, {high:.3g}]"
    )


def check_path(path: AttackPath, *, steps: int, step_size: float) -> Iterator[Check]:
    """Check what the attack did to its N images."""
    finite = path.finite & path.loss.isfinite().all(1)
    yield Check("finite logits and loss", bool(finite.all()), f"{_of(~finite)} had a logit or loss that was not")
    start = path.correct[:, 0]
    yield Check("ε = 0 equals clean", bool(start.all()), f"{_of(start)} correct before the first step, as chosen")
    yield from _check_gradients(path)
    yield from _check_progress(path)
    low, high = path.images.amin().item(), path.images.amax().item()
    yield Check("pixels in [0, 1]", 0 <= low <= high <= 1, f"attacked pixels lie in [{low:.6g}, {high:.6g}]")
    largest, budget = path.linf.amax().item(), steps * step_size
    within = largest <= budget * (1 + 1e-3)  # float32 rounding of each addition
    yield Check("distance within budget", within, f"largest L∞ {largest:.6g}; {steps} × {step_size:g} = {budget:.6g}")


def _check_gradients(path: AttackPath) -> Iterator[Check]:
    elements = path.images[0].numel()
    blind = (path.zero_gradients == elements).any(1)
    share = path.zero_gradients.double().mean().item() / elements
    yield Check("no zero gradients", not blind.any(), f"{_of(blind)} met an all-zero gradient; {share:.2%} of elements")


def _check_progress(path: AttackPath) -> Iterator[Check]:
    first, last = path.loss[:, 0], path.loss[:, -1]
    fallen = last < first
    rises = bool(last.mean() > first.mean())
    change = f"mean loss {first.mean().item():.3g} → {last.mean().item():.3g}"
    yield Check("loss rises", rises, f"{change}; {_of(fallen)} ended with a lower loss")
    accuracy = path.correct.double().mean(0)
    worst = int(accuracy.argmin())
    ever = 1 - path.correct.all(1).double().mean().item()
    text = f"lowest accuracy {accuracy[worst].item():.1%} at step {worst}, last {accuracy[-1].item():.1%}"
    recovered = (accuracy[-1] - accuracy[worst]).item() * len(first)
    noise = max(1.0, 0.02 * len(first))  # single images do cross the boundary back
    yield Check("a longer path never helps", recovered <= noise + 1e-9, f"{text}; {ever:.1%} wrong at some step")


def _of(selected: Tensor) -> str:
    return f"{int(selected.sum())} of {len(selected)} images"
