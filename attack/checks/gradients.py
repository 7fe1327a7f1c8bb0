"""What a model's gradient is like at clean images: absent, wrong, silent, or good for a step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attack.attacks import input_gradient, separate_copy

PIXELS_AT_A_TIME = 2**18  # of images looked at together, in float64 and with gradients
DIRECTIONS = 2
FINE = {torch.float64: 1e-7, torch.float32: 1e-3}  # of the pixel range: half the distance of a central difference
STEP = 1 / 255
DISAGREES = 0.2  # 0: difference and gradient are equal, 0.7: they have nothing to do with each other, 1: opposite
UNDERFLOW = 1e-30  # float32 ends at 1e-38; products on the way back end sooner


class Slopes(NamedTuple):
    """The step of the central differences, and for each of N images (N,) what its gradient is like.

    `finite` and `zero` gradient of the margin, `zeros` its share of zero elements, `silent` where the cross-entropy has
    none left but the margin has; how far differences and gradient `disagree`; and how much of the rise that it tells
    comes true over a step (`useful`).
    """

    fine: float
    finite: Tensor
    zero: Tensor
    zeros: Tensor
    silent: Tensor
    disagree: Tensor
    useful: Tensor


def slopes_at(model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, gradient: Tensor, seed: int) -> Slopes:
    """Look at the gradient at N images (N, C, H, W) with labels (N,), for which a model has these logits (N, classes).

    `gradient` (N, C, H, W) is the margin's; `seed` chooses the points beside the images, and directions of differences.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in _split(images):
        probe = _Probe(model, images[rows], _pair(labels[rows], logits[rows]), seed)
        parts.append(_slopes(probe, logits[rows], gradient[rows].flatten(1), generator))
    columns = zip(*(part[1:] for part in parts), strict=True)
    return Slopes(min(part.fine for part in parts), *(torch.cat(column) for column in columns))


def margin_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, seed: int, at_a_time: int
) -> Tensor:
    """Return the gradient of the margin by images (N, C, H, W), so many of them in a batch."""
    parts = [
        _Probe(model, images[rows], _pair(labels[rows], logits[rows]), seed).gradient()
        for rows in torch.split(torch.arange(len(images)), at_a_time)
    ]
    return torch.cat(parts)


def _pair(labels: Tensor, logits: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return torch.stack([labels, others.argmax(1)], 1)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return ‖one - other‖ / (‖one‖ + ‖other‖) for each row, (n,)."""
    shares: Tensor = (one - other).norm(dim=1) / (one.norm(dim=1) + other.norm(dim=1)).clamp_min(1e-30)
    return shares


def _slopes(attacked: "_Probe", logits: Tensor, gradient: Tensor, generator: torch.Generator) -> Slopes:
    entropy = attacked.entropy_gradient().flatten(1)
    silent = (entropy.abs().amax(1) < UNDERFLOW) & (gradient.abs().amax(1) >= UNDERFLOW)
    inside = attacked.inside(generator)
    fine, disagree, useful = _compare(inside, generator)
    if (doubtful := disagree > DISAGREES).any():  # by rounding, or in truth: float64 tells, at three times the cost
        fine, disagree[doubtful], useful[doubtful] = _compare(_precise(inside.of(doubtful)), generator)
    finite, zeros = gradient.isfinite().all(1), gradient == 0
    silent &= logits.argmax(1) == attacked.pair[:, 0]
    return Slopes(fine, finite, zeros.all(1), zeros.double().mean(1), silent, disagree, useful)


def _compare(probe: "_Probe", generator: torch.Generator) -> tuple[float, Tensor, Tensor]:
    """Return the step of the differences, and how far they disagree with the gradient and how useful it is, (n,)."""
    gradient, found, told = probe.gradient(), [], []
    fine = FINE.get(probe.points.dtype, FINE[torch.float32])
    for _ in range(DIRECTIONS):  # random ones, of ±1
        signs = torch.randint(0, 2, gradient.shape, generator=generator).to(gradient) * 2 - 1
        found.append(probe.slope(signs, fine))
        told.append((gradient * signs).flatten(1).sum(1))
    useful = probe.slope(gradient.sign(), STEP) / gradient.flatten(1).abs().sum(1).clamp_min(1e-30)
    return fine, distance(torch.stack(found, 1), torch.stack(told, 1)).float(), useful.float()


def entropy_gradient(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return the gradient of the cross-entropy by images (N, C, H, W)."""
    parts = [_Probe(model, images[rows], labels[rows, None], seed).entropy_gradient() for rows in _split(images)]
    return torch.cat(parts)


def _split(images: Tensor) -> tuple[Tensor, ...]:
    at_a_time = max(8, PIXELS_AT_A_TIME // (images.shape[2] * images.shape[3]))
    return torch.split(torch.arange(len(images)), at_a_time)


@dataclass(frozen=True)
class _Probe:
    """A model to differentiate, interior points (n, C, H, W) in its precision, and the logits to compare at each.

    `pair` (n, 2) holds the true label and the strongest other class; their difference is the margin.
    """

    model: nn.Module
    points: Tensor
    pair: Tensor
    seed: int

    def inside(self, generator: torch.Generator) -> "_Probe":
        """Return the probe off the grid of 8-bit values and off the edges."""
        noise = torch.rand(self.points.shape, generator=generator).to(self.points.device) - 0.5
        return replace(self, points=self.points * (1 - 4 * STEP) + (2 + noise) * STEP)

    def of(self, rows: Tensor) -> "_Probe":
        """Return the probe of some points (n,)."""
        return replace(self, points=self.points[rows], pair=self.pair[rows])

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
        leaf = self.points.detach().clone().requires_grad_()
        with torch.enable_grad():
            return input_gradient(self.margin(leaf), leaf)

    def entropy_gradient(self) -> Tensor:
        """Return that of the cross-entropy of the true labels."""
        leaf = self.points.detach().clone().requires_grad_()
        with torch.enable_grad():
            with same_numbers(leaf, self.seed):
                losses = F.cross_entropy(self.model(leaf), self.pair[:, 0], reduction="none")
            return input_gradient(losses, leaf)


def _precise(probe: _Probe) -> _Probe:
    """Return the probe in float64 where the model allows it."""
    with suppress(Exception):  # whatever keeps a foreign model from being copied or from taking float64
        double, pixels = separate_copy(probe.model).double(), probe.points.double()
        if floating_types(double, pixels[:1]) == {torch.float64}:
            return _Probe(double, pixels, probe.pair, probe.seed)
    return probe


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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Let PyTorch not import its compiler, which takes seconds, to keep it away from here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
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
