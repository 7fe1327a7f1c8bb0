"""Checks on a model's gradient, on which every white-box attack stands."""

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attack.attacks.victim import input_gradient
from attack.checks.check import Check
from attack.checks.forward import floating_types, logits_of, same_numbers

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
