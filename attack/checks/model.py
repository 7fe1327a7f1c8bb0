"""Checks of a model: its mode, its outputs, its forward passes and its gradients."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.checks.check import Check, Failure
from attack.checks.gradients import (
    Slopes,
    batches_disagree,
    entropy_gradient,
    floating_types,
    logits_of,
    same_numbers,
    slopes_at,
)
from attack.checks.robustness import wilson

PASSES = 5
RANDOM = 1e-4  # of normalised logits, as AutoAttack's flag has it
OTHERWISE = 1e-2  # of normalised logits: kernels for other batch sizes round otherwise, but less
ROW_SUMS = 1e-3  # probabilities sum to one, and log-probabilities' exponentials, up to rounding
SQUASHED = 0.01  # how near outputs of a sigmoid come to 0 and 1
DLR_CLASSES = 4  # the targeted DLR loss takes a third and a fourth logit
SURE = 0.99  # confidence of each share that is compared with another
NEARBY, SHIFT = 8 / 255, 0.1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DISAGREES = 0.2  # 0: difference and gradient are equal, 0.7: they have nothing to do with each other, 1: opposite
MANY_ZEROS = 0.25  # of the elements: pixels that the gradient leaves out
USEFUL = 0.5  # of the rise that a gradient tells, over a step along its sign
SURVIVES = 0.1  # of the slope at a point must be left over a step
NOISE, NOISES, FLIPS = 4 / 255, 10, 2
# Shares of images that may show a defect: a check fails where Wilson's interval of the share lies above.
NO_GRADIENT, WRONG_GRADIENT, SHATTERED, UNSTABLE = 0.01, 0.05, 0.25, 0.25


class Finding(NamedTuple):
    """Whether a check passed, in words why, and the numbers behind it."""

    passed: bool
    detail: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class _Rule:
    """A check: what it looks at, and what a failure means."""

    name: str
    look: "Callable[[_Looked], Finding]"
    meaning: str
    failure: Failure = "inconclusive"

    def check(self, looked: "_Looked") -> Check:
        """Return the check; it fails, with the reason, where a foreign model keeps it from being made."""
        try:
            passed, detail, numbers = self.look(looked)
        except Exception as error:
            return Check(self.name, False, could_not_run(error), self.meaning)
        return Check(self.name, passed, detail, self.meaning, numbers, self.failure)


def could_not_run(error: Exception) -> str:
    """Say that a check could not be made, and why."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"it could not be made ({type(error).__name__}: {reason})"


def check_model(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> Iterator[Check]:
    """Check a model on N clean images (N, C, H, W), float32 in [0, 1], and their labels (N,).

    The model's mode is checked as it is; the other checks see it in eval mode and leave its mode as it was. A defect of
    few images needs 64 images or more to be seen. `seed` chooses random directions and noises; the global random state
    stays as it is.
    """
    looked = _Looked(model, images, labels, seed)
    yield EVAL_MODE.check(looked)
    with _evaluated(model):
        for rule in RULES:
            yield rule.check(looked)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
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
    def slopes(self) -> Slopes:
        """What is known of the gradient at each image."""
        return slopes_at(self.model, self.images, self.labels, self.logits, self.seed)


def autograd_calls(model: nn.Module, images: Tensor) -> int:
    """Count the calls of `torch.autograd.grad` and `backward` inside one forward pass with gradients."""
    watched = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code in watched

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        with same_numbers(images, 0), torch.enable_grad():
            model(images.detach().clone().requires_grad_())
    finally:
        sys.setprofile(previous)
    return calls


def _share(defect: Tensor, most: float, says: str) -> Finding:
    """Look whether Wilson's interval of the share of images (N,) with a defect lies above what may be."""
    found, n = int(defect.sum()), len(defect)
    low, high = wilson(found, n)
    detail = f"{found} of {n} images ({low:.0%} to {high:.0%}) {says}"
    return Finding(low <= most, detail, {"images": found, "low": low, "high": high})


def _eval_mode(looked: _Looked) -> Finding:
    modules = list(looked.model.modules())
    training = sum(module.training for module in modules)
    numbers = {"training": training, "modules": len(modules)}
    return Finding(training == 0, f"{training} of {len(modules)} modules in training mode", numbers)


def _float32(looked: _Looked) -> Finding:
    """Parameters and logits are float32, and no operation inside computes in less, as a hidden autocast makes it do."""
    outside = {tensor.dtype for tensor in (*looked.model.parameters(), looked.logits)}
    inside = {kind for kind in floating_types(looked.model, looked.images[:1]) if kind.itemsize < 4}
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in outside | inside))
    passed = outside == {torch.float32} and not inside
    return Finding(passed, f"parameters, logits and all operations between are {names}", {"lower": len(inside)})


@torch.no_grad()
def _repeatable(looked: _Looked) -> Finding:
    """Five passes give the same logits (fra31/auto-attack, `check_randomized`)."""
    with same_numbers(looked.images, looked.seed):  # drawn on from pass to pass
        first, *others = [looked.model(looked.images) for _ in range(PASSES)]
    difference = max(_distance(first, other) for other in others)
    detail = f"{PASSES} passes differ by at most {difference:.3g} of the normalised logits"
    return Finding(not difference > RANDOM, detail, {"difference": difference})


def _same_under_attack(looked: _Looked) -> Finding:
    """Logits as accuracy is measured are those with gradients, and those of the first half beside other images."""
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


def _order(looked: _Looked) -> Finding:
    """Images that are asked about before their attacked versions are right as often as those asked about after them.

    They are made darker or brighter, so that none was seen before; the attack is a step along the gradient further on.
    """
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
    differ = []
    for row in right:
        (low, high), (lowest, highest) = (wilson(int(part.sum()), len(part), SURE) for part in (row[::2], row[1::2]))
        differ.append(low > highest or lowest > high)
    detail = f"{_accuracies(right[:, ::2])} are right where the images came first, {_accuracies(right[:, 1::2])} after"
    return Finding(not any(differ), detail, {"differ": sum(differ)})


def _accuracies(right: Tensor) -> str:
    images, attacked = right.double().mean(1).tolist()
    return f"{images:.0%} of images and {attacked:.0%} of attacked ones"


def _no_probabilities(looked: _Looked) -> Finding:
    """Rows of probabilities sum to one; those of a sigmoid lie in [0, 1] and come near both ends."""
    low, high = looked.logits.amin().item(), looked.logits.amax().item()
    furthest = (looked.logits.double().sum(1) - 1).abs().amax().item()
    probabilities = low >= 0 and (furthest <= ROW_SUMS or (low <= SQUASHED and 1 - SQUASHED <= high <= 1))
    says = ": return what goes into the softmax or sigmoid" if probabilities else ""
    detail = f"outputs lie in [{low:.3g}, {high:.3g}], their sums within {furthest:.3g} of 1{says}"
    return Finding(not probabilities, detail, {"low": low, "high": high, "furthest_from_1": furthest})


def _no_autograd(looked: _Looked) -> Finding:
    calls = autograd_calls(looked.model, looked.images[:1])
    return Finding(calls == 0, f"{calls} calls of autograd in one forward pass", {"calls": calls})


def _enough_classes(looked: _Looked) -> Finding:
    classes = looked.logits.shape[1]
    return Finding(classes >= DLR_CLASSES, f"{classes} classes", {"classes": classes})


def _pixel_range(looked: _Looked) -> Finding:
    """No other usual pixel range gives more correct answers than [0, 1]: a sign test over images for each."""
    here = looked.logits.argmax(1) == looked.labels
    worse, gained = [], 0
    for name, pixels in _other_ranges(looked.images):
        there = logits_of(looked.model, pixels, looked.seed).argmax(1) == looked.labels
        lost, won = int((here & ~there).sum()), int((there & ~here).sum())
        gained = max(gained, won - lost)
        if wilson(lost, lost + won, SURE)[1] < 0.5:
            worse.append(f"{name} {there.double().mean().item():.0%}")
    better = f"; better with {', '.join(worse)}" if worse else "; no other range is better"
    detail = f"{here.double().mean().item():.0%} of {len(here)} images correct{better}"
    return Finding(not worse, detail, {"images_gained": gained})


def _other_ranges(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "0 to 255", images * 255
    yield "[-1, 1]", images * 2 - 1
    if images.shape[1] == 3:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
        yield "ImageNet's normalisation", (images - mean) / std


def _finite(looked: _Looked) -> Finding:
    losses = F.cross_entropy(looked.logits, looked.labels, reduction="none")
    broken = int((~(looked.logits.isfinite().all(1) & losses.isfinite() & looked.slopes.finite)).sum())
    return Finding(broken == 0, f"{broken} of {len(losses)} images had one that was not", {"images": broken})


def _not_zero(looked: _Looked) -> Finding:
    zeros = looked.slopes.zeros.mean().item()
    found = _share(looked.slopes.zero, NO_GRADIENT, f"have no gradient at all; {zeros:.2%} of elements are zero")
    return found._replace(numbers={**found.numbers, "elements": zeros})


def _not_saturated(looked: _Looked) -> Finding:
    """See that the cross-entropy's gradient does not underflow where the margin's is there (Croce and Hein 2020)."""
    says = "are right, and the cross-entropy has no gradient left, but the margin has"
    return _share(looked.slopes.silent, WRONG_GRADIENT, says)


@torch.no_grad()
def _stable(looked: _Looked) -> Finding:
    """Noise of ±4/255 seldom changes an answer."""
    answers = looked.logits.argmax(1)
    generator, changed = torch.Generator().manual_seed(looked.seed), torch.zeros_like(answers)
    for _ in range(NOISES):
        noise = torch.rand(looked.images.shape, generator=generator).to(looked.images.device) * 2 - 1
        moved = (looked.images + NOISE * noise).clamp(0, 1)
        changed += logits_of(looked.model, moved, looked.seed).argmax(1) != answers
    right = answers == looked.labels
    return _share((changed >= FLIPS)[right], UNSTABLE, "that are right are answered otherwise under noise of ±4/255")


def _derivative(looked: _Looked) -> Finding:
    """See that no gradient is wrong: differences say so, and the rise that it tells does not come true over a step.

    So the straight-through gradient of rounding to 8 bits, which has no derivative, passes.
    """
    slopes = looked.slopes
    useful = (slopes.useful >= USEFUL) & (slopes.zeros < MANY_ZEROS)
    wrong = (slopes.disagree > DISAGREES) & ~useful
    found = _share(wrong, WRONG_GRADIENT, f"have a gradient that central differences over {slopes.fine:g} contradict")
    return found._replace(numbers={**found.numbers, "median": slopes.disagree.median().item(), "step": slopes.fine})


def _lasting(looked: _Looked) -> Finding:
    """Along the gradient's sign, the slope over a step of 1/255 is not much less than the slope at the point."""
    return _share(looked.slopes.left < SURVIVES, SHATTERED, f"keep less than {SURVIVES:.0%} of their slope over ±1/255")


def _same_gradient(looked: _Looked) -> Finding:
    """See that the gradient of an image does not depend on how many others are in its batch."""
    differ = batches_disagree(looked.model, looked.images, looked.labels, looked.logits, looked.seed)
    return _share(differ > DISAGREES, WRONG_GRADIENT, "have another gradient in a larger batch")


EVAL_MODE = _Rule(
    "eval mode",
    _eval_mode,
    "In training mode dropout is random and batch statistics mix the images: no result is the model's own.",
)
RULES = (
    _Rule("float32", _float32, "Low precision rounds small changes of the input away and with them the gradient."),
    _Rule(
        "repeatable",
        _repeatable,
        "A random model must be attacked on its average, not on one draw, else it only seems robust.",
        "masking",
    ),
    _Rule(
        "same logits under attack and in any batch",
        _same_under_attack,
        "The attack meets another model than the one whose accuracy is measured.",
    ),
    _Rule(
        "the order of images does not matter",
        _order,
        "A model that remembers what it was asked answers attacked images from memory.",
    ),
    _Rule(
        "logits, not probabilities",
        _no_probabilities,
        "Losses expect logits; a softmax or sigmoid before them flattens the gradient.",
        "masking",
    ),
    _Rule(
        "no autograd inside",
        _no_autograd,
        "A model that optimises while it predicts must be attacked through, or around, its optimisation.",
        "masking",
    ),
    _Rule(
        "enough classes for every loss",
        _enough_classes,
        "AutoAttack's targeted DLR loss needs four classes; with fewer, other losses have to do.",
        "note",
    ),
    _Rule(
        "takes pixels in [0, 1]",
        _pixel_range,
        "The model expects other pixels than it gets: its accuracy, and every distance, is another model's.",
    ),
    _Rule(
        "finite logits, loss and gradient",
        _finite,
        "An attack cannot follow a number that is not one.",
    ),
    _Rule(
        "gradient reaches the pixels",
        _not_zero,
        "Without a gradient the attack stands still, and the image counts as robust.",
        "masking",
    ),
    _Rule(
        "loss not saturated",
        _not_saturated,
        "Where the cross-entropy rounds to zero, only attacks on the margin find a way.",
        "note",
    ),
    _Rule(
        "stable under noise",
        _stable,
        "Where noise alone decides, a step along the gradient leads anywhere.",
        "masking",
    ),
    _Rule(
        "gradient is the derivative",
        _derivative,
        "The backward pass is not the forward pass's: attacks follow a direction that is not the model's.",
        "masking",
    ),
    _Rule(
        "same gradient in any batch",
        _same_gradient,
        "Attacks follow another gradient than the one that was checked.",
        "masking",
    ),
    _Rule(
        "gradient lasts for a step",
        _lasting,
        "A shattered gradient holds for no step that an attack can take.",
        "masking",
    ),
)
