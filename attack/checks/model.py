"""Checks on the model alone, before anything is attacked: each looks for one thing that makes attacks look weak."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.checks.check import Check
from attack.checks.forward import autograd_calls, floating_types, logits_of, same_numbers
from attack.checks.gradients import check_gradients
from attack.checks.intervals import wilson

PASSES = 5
RANDOM = 1e-4  # of normalised logits, as AutoAttack's flag has it
OTHERWISE = 1e-2  # of normalised logits: kernels for other batch sizes round otherwise, but less
CROWDED = 0.01  # of the largest output: probabilities crowd at zero
ROW_SUMS = 1e-3  # relative spread of the sums of probabilities
DLR_CLASSES = 4  # the targeted DLR loss takes a third and a fourth logit
SURE = 0.99  # confidence that another pixel range fits better
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check_model(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> Iterator[Check]:
    """Check a model on N clean images (N, C, H, W), float32 in [0, 1], and their labels (N,).

    The model's mode is checked as it is; the other checks see it in eval mode and leave its mode as it was. Some 16
    images or more make every check worth its while; the gradient's checks take the first 8. `seed` chooses their
    random directions and noises; the global random state stays as it is.
    """
    yield _eval_mode(model)
    with _evaluated(model):
        logits = logits_of(model, images, seed)
        yield _float32(model, images, logits)
        yield _repeatable(model, images, seed)
        yield _same_under_attack(model, images, logits, seed)
        yield _no_probabilities(logits)
        yield _no_autograd(model, images)
        yield _enough_classes(logits.shape[1])
        yield _pixel_range(model, images, labels, seed)
        yield from check_gradients(model, images, labels, seed)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _eval_mode(model: nn.Module) -> Check:
    modules = list(model.modules())
    training = sum(module.training for module in modules)
    return Check(
        "eval mode",
        training == 0,
        f"{training} of {len(modules)} modules in training mode",
        "In training mode dropout is random and batch statistics mix the images: no result is the model's own.",
        {"training": training, "modules": len(modules)},
    )


def _float32(model: nn.Module, images: Tensor, logits: Tensor) -> Check:
    """Parameters and logits are float32, and no operation inside computes in less, as a hidden autocast makes it do."""
    outside = {tensor.dtype for tensor in (*model.parameters(), logits)}
    inside = {kind for kind in floating_types(model, images[:1]) if kind.itemsize < 4}
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in outside | inside))
    return Check(
        "float32",
        outside == {torch.float32} and not inside,
        f"parameters, logits and all operations between are {names}",
        "Low precision rounds small changes of the input away and with them the gradient.",
        {"lower": len(inside)},
    )


@torch.no_grad()
def _repeatable(model: nn.Module, images: Tensor, seed: int) -> Check:
    """Five passes give the same logits (fra31/auto-attack, `check_randomized`)."""
    with same_numbers(images, seed):  # drawn on from pass to pass
        first, *others = [model(images) for _ in range(PASSES)]
    difference = max(_distance(first, other) for other in others)
    return Check(
        "repeatable",
        not difference > RANDOM,
        f"{PASSES} passes differ by at most {difference:.3g} of the normalised logits",
        "A random model must be attacked on its average, not on one draw, else it only seems robust.",
        {"difference": difference},
        "masking",
    )


def _same_under_attack(model: nn.Module, images: Tensor, logits: Tensor, seed: int) -> Check:
    """Logits as accuracy is measured are those with gradients, and those of the first half beside other images."""
    with same_numbers(images, seed), torch.enable_grad():
        attacked = model(images.detach().clone().requires_grad_())
    half = (len(images) + 1) // 2
    beside = logits_of(model, torch.cat([images[:half], 1 - images[half:]]), seed)
    difference = max(_distance(logits, attacked), _distance(logits[:half], beside[:half]))
    return Check(
        "same logits under attack and in any batch",
        not difference > OTHERWISE,
        f"they differ by at most {difference:.3g} of the normalised logits",
        "The attack meets another model than the one whose accuracy is measured.",
        {"difference": difference},
    )


def _no_probabilities(logits: Tensor) -> Check:
    """Look for probabilities, scaled or not: never negative, and bounded by 1, of equal sums, or crowded at 0."""
    low, high, sums = logits.amin().item(), logits.amax().item(), logits.sum(1)
    equal = (sums.amax() - sums.amin()).item() <= ROW_SUMS * sums.abs().amax().item()
    return Check(
        "logits, not probabilities",
        not (low >= 0 and (high <= 1 or equal or low <= CROWDED * high)),
        f"outputs on clean images lie in [{low:.3g}, {high:.3g}]",
        "Losses expect logits; a softmax or sigmoid before them flattens the gradient.",
        {"low": low, "high": high},
        "masking",
    )


def _no_autograd(model: nn.Module, images: Tensor) -> Check:
    calls = autograd_calls(model, images[:1])
    return Check(
        "no autograd inside",
        calls == 0,
        f"{calls} calls of autograd in one forward pass",
        "A model that optimises while it predicts must be attacked through, or around, its optimisation.",
        {"calls": calls},
        "masking",
    )


def _enough_classes(classes: int) -> Check:
    return Check(
        "enough classes for every loss",
        classes >= DLR_CLASSES,
        f"{classes} classes",
        "AutoAttack's targeted DLR loss needs four classes; with fewer, other losses have to do.",
        {"classes": classes},
        "note",
    )


def _pixel_range(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Check:
    """No other usual pixel range gives more correct answers than [0, 1]: a sign test over images for each."""
    here = logits_of(model, images, seed).argmax(1) == labels
    worse, gained = [], 0
    for name, pixels in _other_ranges(images):
        there = logits_of(model, pixels, seed).argmax(1) == labels
        lost, won = int((here & ~there).sum()), int((there & ~here).sum())
        gained = max(gained, won - lost)
        if wilson(lost, lost + won, SURE)[1] < 0.5:
            worse.append(f"{name} {there.double().mean().item():.0%}")
    better = f"; better with {', '.join(worse)}" if worse else "; no other range is better"
    return Check(
        "takes pixels in [0, 1]",
        not worse,
        f"{here.double().mean().item():.0%} of {len(images)} images correct{better}",
        "The model expects other pixels than it gets: its accuracy, and every distance, is another model's.",
        {"images_gained": gained},
    )


def _other_ranges(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "0 to 255", images * 255
    yield "[-1, 1]", images * 2 - 1
    if images.shape[1] == 3:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
        yield "ImageNet's normalisation", (images - mean) / std


def check_rounding(model: nn.Module, attacked: Tensor, labels: Tensor) -> Check:
    """Report how many attacked images (N, C, H, W) are right again after a round trip through 8 bits a pixel."""
    wrong = logits_of(model, attacked, 0).argmax(1) != labels
    rounded = logits_of(model, (attacked * 255).round() / 255, 0).argmax(1) == labels
    back, broken = int((wrong & rounded).sum()), int(wrong.sum())
    return Check(
        "survives 8-bit files",
        back <= max(1.0, OTHERWISE * broken),
        f"{back} of {broken} broken images are right again after rounding to 8 bits",
        "Saved as ordinary pictures these attacks would fail; the numbers hold for exact pixels.",
        {"back": back, "broken": broken},
        "note",
    )


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest distance over images between logits (N, classes), each image's brought to length 1."""
    difference = F.normalize(one.detach(), dim=1) - F.normalize(other.detach(), dim=1)
    return float(difference.norm(dim=1).amax())
