"""Checks of a model: its mode, its outputs, its forward passes and its gradients.

The docstring of each says what its failure means.
"""
# ruff: noqa: D401

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FrameType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.attacks import Averaged
from attack.checks import Check, Finding, Rules
from attack.checks.gradients import (
    DISAGREES,
    Slopes,
    distance,
    entropy_gradient,
    floating_types,
    logits_of,
    margin_gradient,
    same_numbers,
    slopes_at,
)
from attack.checks.robustness import wilson

PASSES, REPEATED = 5, 16  # of so many images
SMALL_BATCH = 16
RANDOM = 1e-4  # of normalised logits, as AutoAttack's flag has it
OTHERWISE = 1e-2  # of normalised logits: kernels for other batch sizes round otherwise, but less
ROW_SUMS = 1e-3  # probabilities sum to one, and log-probabilities' exponentials, up to rounding
SQUASHED = 0.01  # how near outputs of a sigmoid come to 0 and 1
DLR_CLASSES = 4  # the targeted DLR loss takes a third and a fourth logit
SURE = 0.99  # confidence of each share that is compared with another
NEARBY, SHIFT = 8 / 255, 0.1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MANY_ZEROS = 0.25  # of the elements: pixels that the gradient leaves out
USEFUL = 0.5  # of the rise that a gradient tells, over a step along its sign
SURVIVES = 0.1  # of the slope at a point must be left over a step
NOISE, NOISES, FLIPS = 4 / 255, 6, 2
# Shares of images that may show a defect: a check fails where Wilson's interval of the share lies above.
NO_GRADIENT, WRONG_GRADIENT, SHATTERED, UNSTABLE, UNSTEADY = 0.01, 0.05, 0.25, 0.25, 0.1


def check_model(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> Iterator[Check]:
    """Check a model on N clean images (N, C, H, W), float32 in [0, 1], and their labels (N,).

    The model's mode is checked as it is; the other checks see it in eval mode and leave its mode as it was. A defect of
    few images needs 64 images or more to be seen. `seed` chooses random directions and noises; the global random state
    stays as it is.
    """
    looked = _Looked(model, images, labels, seed)
    yield from MODE.check(looked)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield from RULES.check(looked)
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class _Looked:
    """A model, images (N, C, H, W) and labels (N,) to look at it with, and what more than one check needs of them."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    seed: int

    @cached_property
    def logits(self) -> Tensor:
        """The logits of the images (N, classes)."""
        return logits_of(self.model, self.images, self.seed)

    @cached_property
    def gradient(self) -> Tensor:
        """The margin's gradient at the images (N, C, H, W), in one batch."""
        return margin_gradient(self.model, self.images, self.labels, self.logits, self.seed, len(self.images))

    @cached_property
    def slopes(self) -> Slopes:
        """What is known of the gradient at each image."""
        return slopes_at(self.model, self.images, self.labels, self.logits, self.gradient, self.seed)


MODE: Rules[_Looked] = Rules()
RULES: Rules[_Looked] = Rules()


def _share(defect: Tensor, most: float, says: str) -> Finding:
    """Look whether Wilson's interval of the share of images (N,) with a defect lies above what may be."""
    found, n = int(defect.sum()), len(defect)
    low, high = wilson(found, n)
    detail = f"{found} of {n} images ({low:.0%} to {high:.0%}) {says}"
    return Finding(low <= most, detail, {"images": found, "low": low, "high": high})


@MODE.add("eval mode")
def _eval_mode(looked: _Looked) -> Finding:
    """In training mode dropout is random and batch statistics mix the images: no result is the model's own."""
    modules = list(looked.model.modules())
    training = sum(module.training for module in modules)
    numbers = {"training": training, "modules": len(modules)}
    return Finding(training == 0, f"{training} of {len(modules)} modules in training mode", numbers)


@RULES.add("float32")
def _float32(looked: _Looked) -> Finding:
    """Low precision rounds small changes of the input away and with them the gradient."""
    # Operations inside too: a hidden autocast makes them compute in less.
    outside = {tensor.dtype for tensor in (*looked.model.parameters(), looked.logits)}
    inside = {kind for kind in floating_types(looked.model, looked.images[:1]) if kind.itemsize < 4}
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in outside | inside))
    passed = outside == {torch.float32} and not inside
    return Finding(passed, f"parameters, logits and all operations between are {names}", {"lower": len(inside)})


@RULES.add("repeatable", "masking")
@torch.no_grad()
def _repeatable(looked: _Looked) -> Finding:
    """A random model must be attacked on its average, not on one draw, else it only seems robust."""
    # Five passes give the same logits (fra31/auto-attack, `check_randomized`).
    images = looked.images if isinstance(looked.model, Averaged) else looked.images[:REPEATED]
    with same_numbers(images, looked.seed):  # drawn on from pass to pass
        first, *others = [looked.model(images) for _ in range(PASSES)]
    if isinstance(looked.model, Averaged):  # the answers must be steady
        changed = torch.stack([other.argmax(1) != first.argmax(1) for other in others]).any(0)
        says = f"are answered otherwise in one of {PASSES} means of {looked.model.draws} draws"
        return _share(changed, UNSTEADY, says)
    difference = max(_distance(first, other) for other in others)
    detail = f"{PASSES} passes differ by at most {difference:.3g} of the normalised logits"
    return Finding(not difference > RANDOM, detail, {"difference": difference})


@RULES.add("same logits under attack and in any batch")
def _same_under_attack(looked: _Looked) -> Finding:
    """The attack meets another model than the one whose accuracy is measured."""
    images = looked.images
    with same_numbers(images, looked.seed), torch.enable_grad():
        attacked = looked.model(images.detach().clone().requires_grad_())
    half = (len(images) + 1) // 2
    beside = logits_of(looked.model, torch.cat([images[:half], 1 - images[half:]]), looked.seed)
    difference = max(_distance(looked.logits, attacked), _distance(looked.logits[:half], beside[:half]))
    detail = f"they differ by at most {difference:.3g} of the normalised logits"
    return Finding(not difference > OTHERWISE, detail, {"difference": difference})


def _distance(one: Tensor, other: Tensor) -> float:
    """Return the largest distance over images between logits (N, classes), each image's brought to length 1."""
    difference = F.normalize(one.detach(), dim=1) - F.normalize(other.detach(), dim=1)
    return float(difference.norm(dim=1).amax())


@RULES.add("the order of images does not matter")
def _order(looked: _Looked) -> Finding:
    """A model that remembers what it was asked answers attacked images from memory."""
    # Half of the images are asked about before their attacked versions, half after them; both are right as often. They
    # are made darker or brighter, so that none was seen before; the attack is a step along the gradient further on.
    labels, darker = looked.labels, looked.images.mean((1, 2, 3), keepdim=True) > 0.5
    shift = torch.where(darker, -SHIFT, SHIFT)
    images, beyond = ((looked.images + factor * shift).clamp(0, 1) for factor in (1, 2))
    rise = entropy_gradient(looked.model, beyond, labels, looked.seed).sign()
    attacked = (images + NEARBY * rise).clamp(0, 1)
    right = torch.zeros(2, len(images), dtype=torch.bool, device=images.device)
    for half, order in ((slice(0, None, 2), (0, 1)), (slice(1, None, 2), (1, 0))):
        for which in order:
            asked = (images, attacked)[which][half]
            if len(asked):
                right[which, half] = logits_of(looked.model, asked, looked.seed).argmax(1) == labels[half]
    differ, halves = 0, (right[:, ::2], right[:, 1::2])
    for first, after in zip(*halves, strict=True):
        (low, high), (lowest, highest) = (wilson(int(part.sum()), len(part), SURE) for part in (first, after))
        differ += low > highest or lowest > high
    means = (half.double().mean(1).tolist() for half in halves)
    says = [f"{plain:.0%} of images and {attacked:.0%} of attacked ones" for plain, attacked in means]
    detail = f"{says[0]} are right where the images came first, {says[1]} after"
    return Finding(differ == 0, detail, {"differ": differ})


@RULES.add("logits, not probabilities", "masking")
def _no_probabilities(looked: _Looked) -> Finding:
    """Losses expect logits; a softmax or sigmoid before them flattens the gradient."""
    # Rows of probabilities sum to one; those of a sigmoid lie in [0, 1] and come near both ends.
    low, high = looked.logits.amin().item(), looked.logits.amax().item()
    furthest = (looked.logits.double().sum(1) - 1).abs().amax().item()
    probabilities = low >= 0 and (furthest <= ROW_SUMS or (low <= SQUASHED and 1 - SQUASHED <= high <= 1))
    says = ": return what goes into the softmax or sigmoid" if probabilities else ""
    detail = f"outputs lie in [{low:.3g}, {high:.3g}], their sums within {furthest:.3g} of 1{says}"
    return Finding(not probabilities, detail, {"low": low, "high": high, "furthest_from_1": furthest})


@RULES.add("no autograd inside", "masking")
def _no_autograd(looked: _Looked) -> Finding:
    """A model that optimises while it predicts must be attacked through, or around, its optimisation."""
    watched = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code in watched

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        with same_numbers(looked.images, 0), torch.enable_grad():
            looked.model(looked.images[:1].detach().clone().requires_grad_())
    finally:
        sys.setprofile(previous)
    return Finding(calls == 0, f"{calls} calls of autograd in one forward pass", {"calls": calls})


@RULES.add("enough classes for every loss", "note")
def _enough_classes(looked: _Looked) -> Finding:
    """AutoAttack's targeted DLR loss needs four classes; with fewer, other losses have to do."""
    classes = looked.logits.shape[1]
    return Finding(classes >= DLR_CLASSES, f"{classes} classes", {"classes": classes})


@RULES.add("takes pixels in [0, 1]")
def _pixel_range(looked: _Looked) -> Finding:
    """The model expects other pixels than it gets: its accuracy, and every distance, is another model's."""
    # A sign test over images for each other range.
    here = looked.logits.argmax(1) == looked.labels
    images, worse, gained = looked.images, [], 0
    ranges = {"0 to 255": images * 255, "[-1, 1]": images * 2 - 1}
    if images.shape[1] == 3:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
        ranges["ImageNet's normalisation"] = (images - mean) / std
    for name, pixels in ranges.items():
        there = logits_of(looked.model, pixels, looked.seed).argmax(1) == looked.labels
        lost, won = int((here & ~there).sum()), int((there & ~here).sum())
        gained = max(gained, won - lost)
        if wilson(lost, lost + won, SURE)[1] < 0.5:
            worse.append(f"{name} {there.double().mean().item():.0%}")
    better = f"; better with {', '.join(worse)}" if worse else "; no other range is better"
    detail = f"{here.double().mean().item():.0%} of {len(here)} images correct{better}"
    return Finding(not worse, detail, {"images_gained": gained})


@RULES.add("finite logits, loss and gradient")
def _finite(looked: _Looked) -> Finding:
    """An attack cannot follow a number that is not one."""
    losses = F.cross_entropy(looked.logits, looked.labels, reduction="none")
    broken = int((~(looked.logits.isfinite().all(1) & losses.isfinite() & looked.slopes.finite)).sum())
    return Finding(broken == 0, f"{broken} of {len(losses)} images had one that was not", {"images": broken})


@RULES.add("gradient reaches the pixels", "masking")
def _not_zero(looked: _Looked) -> Finding:
    """Without a gradient the attack stands still, and the image counts as robust."""
    zeros = looked.slopes.zeros.mean().item()
    found = _share(looked.slopes.zero, NO_GRADIENT, f"have no gradient at all; {zeros:.2%} of elements are zero")
    return found._replace(numbers={**found.numbers, "elements": zeros})


@RULES.add("loss not saturated", "note")
def _not_saturated(looked: _Looked) -> Finding:
    """Where the cross-entropy rounds to zero, only attacks on the margin find a way."""
    # Croce and Hein 2020.
    says = "are right, and the cross-entropy has no gradient left, but the margin has"
    return _share(looked.slopes.silent, WRONG_GRADIENT, says)


@RULES.add("stable under noise", "masking")
@torch.no_grad()
def _stable(looked: _Looked) -> Finding:
    """Where noise alone decides, a step along the gradient leads anywhere."""
    answers = looked.logits.argmax(1)
    generator, changed = torch.Generator().manual_seed(looked.seed), torch.zeros_like(answers)
    for _ in range(NOISES):
        noise = torch.rand(looked.images.shape, generator=generator).to(looked.images.device) * 2 - 1
        moved = (looked.images + NOISE * noise).clamp(0, 1)
        changed += logits_of(looked.model, moved, looked.seed).argmax(1) != answers
    right = answers == looked.labels
    return _share((changed >= FLIPS)[right], UNSTABLE, "that are right are answered otherwise under noise of ±4/255")


@RULES.add("gradient is the derivative", "masking")
def _derivative(looked: _Looked) -> Finding:
    """The backward pass is not the forward pass's: attacks follow a direction that is not the model's."""
    # Wrong is what differences contradict, and whose rise does not come true over a step: the straight-through
    # gradient of rounding to 8 bits, which has no derivative, passes.
    slopes = looked.slopes
    useful = (slopes.useful >= USEFUL) & (slopes.zeros < MANY_ZEROS)
    wrong = (slopes.disagree > DISAGREES) & ~useful
    found = _share(wrong, WRONG_GRADIENT, f"have a gradient that central differences over {slopes.fine:g} contradict")
    return found._replace(numbers={**found.numbers, "median": slopes.disagree.median().item(), "step": slopes.fine})


@RULES.add("gradient lasts for a step", "masking")
def _lasting(looked: _Looked) -> Finding:
    """A shattered gradient holds for no step that an attack can take."""
    # Of gradients that are right at the point; others fail the check of the derivative.
    slopes = looked.slopes
    lost = (slopes.disagree <= DISAGREES) & ~slopes.zero & (slopes.useful.abs() < SURVIVES)
    return _share(lost, SHATTERED, f"keep less than {SURVIVES:.0%} of their slope over ±1/255")


@RULES.add("same gradient in any batch", "masking")
def _same_gradient(looked: _Looked) -> Finding:
    """Attacks follow another gradient than the one that was checked."""
    small = margin_gradient(looked.model, looked.images, looked.labels, looked.logits, looked.seed, SMALL_BATCH)
    differ = distance(looked.gradient.flatten(1), small.flatten(1))
    return _share(differ > DISAGREES, WRONG_GRADIENT, "have another gradient in a larger batch")
