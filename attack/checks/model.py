"""Checks of a model: its mode, its outputs, its forward passes and its gradients."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attack.attacks.attack import input_gradient
from attack.checks.check import Check
from attack.checks.robustness import wilson


@contextmanager
def same_numbers(images: Tensor, seed: int) -> Iterator[None]:
    """Let a random model draw the same numbers in each pass, without autocast, and put the random state back after."""
    kind = images.device.type
    devices = [images.device] if kind == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(kind, enabled=False):
        torch.manual_seed(seed)
        yield


def logits_of(model: nn.Module, images: Tensor, seed: int) -> Tensor:
    """Return the logits (N, classes) of images (N, C, H, W), without gradients."""
    with same_numbers(images, seed), torch.no_grad():
        logits: Tensor = model(images)
    return logits


class _FloatingTypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the floating-point types of what every operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at its result."""
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.seen |= {leaf.dtype for leaf in leaves if leaf.is_floating_point()}
        return result


def floating_types(model: nn.Module, images: Tensor) -> set[torch.dtype]:
    """Return the floating-point types that occur inside one forward pass."""
    types = _FloatingTypes()
    with types:
        logits_of(model, images, 0)
    return types.seen


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


IMAGES = 8
DIRECTIONS = 2
FINE = {torch.float64: 1e-7, torch.float32: 1e-3}  # of the pixel range: half the distance of a central difference
STEP = 1 / 255
DISAGREES = 0.2  # 0: difference and gradient are equal, 0.7: they have nothing to do with each other, 1: opposite
SURVIVES = 0.1  # of the slope at a point must be left over a step
NOISE, NOISES = 4 / 255, 10
UNDERFLOW = 1e-30  # float32 ends at 1e-38; products on the way back end sooner
UNSTABLE = 0.5  # of the margin


@dataclass(frozen=True)
class _Probe:
    """A model to differentiate, interior points (n, C, H, W) in its precision, and the logits to compare at each.

    `pair` (n, 2) holds the true label and the strongest other class; their difference is the margin.
    """

    model: nn.Module
    points: Tensor
    pair: Tensor
    seed: int

    def margin(self, points: Tensor) -> Tensor:
        """Return the margin (n,) at points (n, C, H, W)."""
        with same_numbers(points, self.seed):
            chosen: Tensor = self.model(points).gather(1, self.pair)
        return chosen[:, 0] - chosen[:, 1]

    @torch.no_grad()
    def slope(self, direction: Tensor, step: float) -> Tensor:
        """Return the central difference (n,) of the margin over `step` · `direction` to both sides."""
        ahead, behind = self.margin(self.points + step * direction), self.margin(self.points - step * direction)
        return (ahead - behind) / (2 * step)

    def gradient(self) -> Tensor:
        """Return the margin's gradient (n, C, H, W) by the model's own backward pass; zero where the graph is cut."""
        return _gradient(self.margin, self.points)


def check_gradients(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Iterator[Check]:
    """Check the gradient on the first images of (N, C, H, W), float32 in [0, 1], with labels (N,)."""
    images, labels = images[:IMAGES], labels[:IMAGES]
    logits = logits_of(model, images, seed)
    generator = torch.Generator().manual_seed(seed)
    as_attacked = _Probe(model, images, _pair(logits, labels), seed)
    yield _finite(as_attacked, logits, labels)
    yield _not_zero(as_attacked)
    yield _not_saturated(as_attacked, logits, labels)
    yield _stable(as_attacked, generator)
    probe = _precise(as_attacked, generator)
    gradient = probe.gradient()
    yield _derivative(probe, gradient, generator)
    yield _lasting(probe, gradient)


def _pair(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.stack([labels, others.argmax(1)], 1)


def _gradient(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    leaf = points.detach().clone().requires_grad_()
    with torch.enable_grad():
        return input_gradient(function(leaf), leaf)


def _precise(probe: _Probe, generator: torch.Generator) -> _Probe:
    """Return the probe off the grid of 8-bit values and off the edges, in float64 where the model allows it."""
    noise = torch.rand(probe.points.shape, generator=generator).to(probe.points.device) - 0.5
    points = probe.points * (1 - 4 * STEP) + (2 + noise) * STEP
    with suppress(Exception):  # whatever keeps a foreign model from being copied or from taking float64
        double, pixels = copy.deepcopy(probe.model).double(), points.double()
        if floating_types(double, pixels[:1]) == {torch.float64}:
            return _Probe(double, pixels, probe.pair, probe.seed)
    return _Probe(probe.model, points, probe.pair, probe.seed)


def _finite(probe: _Probe, logits: Tensor, labels: Tensor) -> Check:
    gradient = probe.gradient().flatten(1)
    finite = logits.isfinite().all(1) & F.cross_entropy(logits, labels, reduction="none").isfinite()
    broken = int((~(finite & gradient.isfinite().all(1))).sum())
    return Check(
        "finite logits, loss and gradient",
        broken == 0,
        f"{broken} of {len(labels)} images had one that was not",
        "An attack cannot follow a number that is not one, and its image counts as it falls.",
        {"images": broken},
    )


def _not_zero(probe: _Probe) -> Check:
    gradient = probe.gradient().flatten(1)
    dead = int((gradient == 0).all(1).sum())
    share = (gradient == 0).double().mean().item()
    return Check(
        "gradient reaches the pixels",
        dead == 0,
        f"{dead} of {len(gradient)} images have no gradient at all; {share:.2%} of elements are zero",
        "Without a gradient the attack stands still, and the image counts as robust.",
        {"images": dead, "elements": share},
        "masking",
    )


def _not_saturated(probe: _Probe, logits: Tensor, labels: Tensor) -> Check:
    """See that the cross-entropy's gradient does not underflow where the margin's is there (Croce and Hein 2020)."""
    right = logits.argmax(1) == labels
    gradient = _gradient(lambda points: _cross_entropy(probe, points, labels), probe.points).flatten(1)
    silent = right & (gradient.abs().amax(1) < UNDERFLOW) & (probe.gradient().flatten(1).abs().amax(1) >= UNDERFLOW)
    return Check(
        "loss not saturated",
        2 * int(silent.sum()) <= len(labels),
        f"the loss has no gradient left on {int(silent.sum())} of {int(right.sum())} images that are right",
        "Logits so large that the loss rounds to zero hide the gradient, not the weakness.",
        {"images": int(silent.sum()), "largest_logit": logits.abs().amax().item()},
        "masking",
    )


def _cross_entropy(probe: _Probe, points: Tensor, labels: Tensor) -> Tensor:
    with same_numbers(points, probe.seed):
        return F.cross_entropy(probe.model(points), labels, reduction="none")


@torch.no_grad()
def _stable(probe: _Probe, generator: torch.Generator) -> Check:
    """Noise of ±4/255 changes the margin by less than half (median), after Pintor et al. 2022."""
    clean, changes = probe.margin(probe.points), []
    for _ in range(NOISES):
        noise = torch.rand(probe.points.shape, generator=generator).to(probe.points.device) * 2 - 1
        moved = probe.margin((probe.points + NOISE * noise).clamp(0, 1))
        changes.append((moved - clean).abs() / clean.abs().clamp_min(1e-10))
    change = torch.stack(changes).median().item()
    return Check(
        "stable under noise",
        not change > UNSTABLE,
        f"noise of ±4/255 changes the margin by {change:.1%} (median)",
        "Where noise alone decides, a step along the gradient leads anywhere.",
        {"change": change},
        "masking",
    )


def _derivative(probe: _Probe, gradient: Tensor, generator: torch.Generator) -> Check:
    """Slopes along random ±1 directions are the gradient's: ‖slopes - gradient's‖ / (‖slopes‖ + ‖gradient's‖)."""
    fine = FINE[probe.points.dtype]
    found, told = [], []
    for _ in range(DIRECTIONS):
        signs = torch.randint(0, 2, gradient.shape, generator=generator).to(gradient) * 2 - 1
        found.append(probe.slope(signs, fine))
        told.append((gradient * signs).flatten(1).sum(1))
    slopes, gradients = torch.stack(found, 1), torch.stack(told, 1)
    lengths = slopes.norm(dim=1) + gradients.norm(dim=1)
    disagreement = ((slopes - gradients).norm(dim=1) / lengths.clamp_min(1e-30)).median().item()
    return Check(
        "gradient is the derivative",
        not disagreement > DISAGREES,
        f"it differs from central differences over {fine:g} by {disagreement:.3g} (median; 0 equal, 1 opposite)",
        "The backward pass is not the forward pass's: attacks follow a direction that is not the model's.",
        {"disagreement": disagreement, "step": fine},
        "masking",
    )


def _lasting(probe: _Probe, gradient: Tensor) -> Check:
    """Along the gradient's sign, the slope over a step of 1/255 is not much less than the slope at the point."""
    direction = gradient.sign()
    near, far = probe.slope(direction, FINE[probe.points.dtype]).abs(), probe.slope(direction, STEP).abs()
    left = torch.where(near > far, far / near, 1.0).median().item()
    return Check(
        "gradient lasts for a step",
        not left < SURVIVES,
        f"{left:.0%} of the slope at a point is left over ±1/255 (median)",
        "A shattered gradient holds for no step that an attack can take.",
        {"left": left},
        "masking",
    )


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
