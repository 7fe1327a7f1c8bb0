"""Attacks: functions from a model, images and labels to attacked images. No files, no statistics.

Here is what they share: the counted model, the loss, the ball, and the result.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from stylize.console import InputError

Norm = Literal["linf", "l2", "l1"]
NORM_NAMES: dict[Norm, str] = {"linf": "L∞", "l2": "L2", "l1": "L1"}
ORDER: dict[Norm, float] = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
OWN_NORMS: tuple[Norm, ...] = ("linf", "l2")  # that our attacks know; L1 is the library's alone
DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0}  # the order of the dual norm
TINY = 1e-12  # keeps a zero vector from being divided by zero
Kind = Literal["white-box", "black-box", "transfer", "noise", "single-step", "minimal-norm", "unbounded"]

BATCH_SIZE = 50  # images attacked at a time, by default


@dataclass(frozen=True)
class Attacked:
    """Attacked images (N, C, H, W) in [0, 1], the passes counted in images, and what the attack itself found out.

    `forwards` and `backwards` count an image once for every time it goes through the model in that direction.
    `last_losses` (N, K), where an attack has steps, is the loss of its best restart over the last K steps; `outside`
    how many images an attack of the user's own moved too far, which come back as they were.
    """

    images: Tensor
    forwards: int
    backwards: int
    last_losses: Tensor | None = None
    outside: int = 0


@dataclass(frozen=True)
class AttackResult:
    """One attack on the N images of an evaluation, in the form in which the result file keeps it.

    `robust` is true where an image is classified correctly as it is and as attacked, in a pass of its own over
    the attacked images in float32. `distance` is the attacked image's distance in `norm`. `epsilon`, in pixels of
    [0, 1], is None for minimal-norm attacks, whose `distance` is infinite where they found nothing and 0 where the
    clean image is wrong. `losses` summarises what checks need of a steepest-ascent attack.
    """

    name: str
    kind: Kind
    norm: Norm
    epsilon: float | None
    robust: tuple[bool, ...]
    distance: tuple[float, ...]
    forwards: int
    backwards: int
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and radius, which no other attack of an evaluation has."""
        return attack_title(self.name, self.norm, self.epsilon)


Loss = Literal["ce", "dlr", "margin"]
LossFunction = Callable[[Tensor, Tensor], Tensor]  # of logits (B, classes) and labels (B,): a loss for each image (B,)
LOSSES: tuple[Loss, ...] = ("ce", "dlr", "margin")


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which rows of logits (B, classes) are errors, (B,): another class, or a logit that is NaN or infinite."""
    return (logits.argmax(1) != labels) | ~logits.isfinite().all(1)


def attack_loss(loss: Loss | LossFunction, logits: Tensor, labels: Tensor) -> Tensor:
    """Return each image's loss (B,), that of a function of one's own or one of three names.

    `ce` is the cross-entropy of the true label y; `margin` is max over i ≠ y of z_i, minus z_y, and above 0 where the
    image is misclassified; `dlr` is that margin divided by z_π1 - z_π3, the largest minus the third largest logit
    (difference of logits ratio, Croce & Hein 2020, eq. 6), which neither shift nor scale of the logits changes.

    Raises:
        InputError: the loss has no such name, or there are too few classes for it (2 for `margin`, 3 for `dlr`).
    """
    if callable(loss):
        return loss(logits, labels)
    if loss not in LOSSES:
        raise InputError(f"Loss is {loss!r}: give one of {', '.join(LOSSES)}.")
    fewest = {"ce": 1, "margin": 2, "dlr": 3}[loss]
    if logits.shape[1] < fewest:
        raise InputError(f"Loss {loss!r} needs {fewest} classes and the model has {logits.shape[1]}: attack with 'ce'.")
    if loss == "ce":
        return F.cross_entropy(logits, labels, reduction="none")
    others = logits.scatter(1, labels[:, None], -math.inf)
    margin = others.amax(1) - logits.gather(1, labels[:, None])[:, 0]
    if loss == "margin":
        return margin
    largest = logits.topk(3, dim=1).values
    return margin / (largest[:, 0] - largest[:, 2] + 1e-12)  # the published code's guard against equal logits


def epsilon_name(epsilon: float) -> str:
    """Write a radius as it is spoken of: `8/255` where it is a whole number of levels, else its digits."""
    levels = 255 * epsilon
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:.4g}"


def radius_name(norm: Norm, epsilon: float) -> str:
    """Write norm and radius, such as `L∞ 8/255` or `L2 0.5`."""
    return f"{NORM_NAMES[norm]} {epsilon_name(epsilon) if norm == 'linf' else f'{epsilon:.4g}'}"


def attack_title(name: str, norm: Norm, epsilon: float | None) -> str:
    """Name an attack with its radius, or with its norm where it looks for the nearest error."""
    return f"{name} {NORM_NAMES[norm] if epsilon is None else radius_name(norm, epsilon)}"


def per_image(numbers: Tensor) -> Tensor:
    """Give one number an image (B,) the shape (B, 1, 1, 1)."""
    return numbers[:, None, None, None]


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each perturbation, (B,)."""
    sizes: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=ORDER[norm], dim=1)
    return sizes


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the step of size 1 that raises a linear loss most: the sign (linf), or the gradient over its length (l2).

    A gradient that is not finite counts as 0, so that images stay images.
    """
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    return gradient.sign() if norm == "linf" else gradient / per_image(size(gradient, "l2").clamp_min(TINY))


def project(current: Tensor, origin: Tensor, epsilon: float | Tensor, norm: Norm) -> Tensor:
    """Move images back into the ball of radius epsilon, one for all or (B, 1, 1, 1), around `origin`, then into [0, 1].

    Clipping moves every pixel towards `origin`, which lies in [0, 1]: the result is in the ball still.
    """
    delta = current - origin
    if norm == "linf":
        radius = torch.as_tensor(epsilon, dtype=delta.dtype, device=delta.device)
        delta = delta.clamp(-radius, radius)
    else:
        delta = delta * (epsilon / per_image(size(delta, "l2").clamp_min(TINY))).clamp_max(1)
    return (origin + delta).clamp(0, 1)


def random_point(images: Tensor, epsilon: float, norm: Norm, generator: Generator) -> Tensor:
    """Return a point drawn uniformly from the ball around each image, clipped to [0, 1].

    The generator lives on the CPU, so that every device attacks from the same points.
    """
    if norm == "linf":
        delta = torch.rand(images.shape, generator=generator) * 2 - 1
    else:  # a uniform direction, and a radius r with P(r < t) = t^dimensions
        delta = torch.randn(images.shape, generator=generator)
        radius = torch.rand(len(images), generator=generator) ** (1 / math.prod(images.shape[1:]))
        delta = delta * per_image(radius / size(delta, "l2").clamp_min(TINY))
    return project(images + epsilon * delta.to(images.device), images, epsilon, norm)


class CountedModel(nn.Module):
    """A model that counts the images that go through it, in each direction, and runs in float32 without autocast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False
        self.draws = getattr(model, "draws", 1)  # passes of each image, see `Averaged`
        self.forwards = self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        self.forwards += self.draws * len(images)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.model(images).to(images.dtype)
        if images.requires_grad and not logits.requires_grad:  # a cut graph: zero gradients, for AutoAttack's code too
            logits = logits + 0 * images.flatten(1).sum(1, keepdim=True)

        def count(gradient: Tensor) -> None:
            self.backwards += self.draws * len(gradient)

        if logits.requires_grad:
            logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits

    def scores(self, images: Tensor, labels: Tensor, loss: Loss | LossFunction) -> tuple[Tensor, Tensor]:
        """Return, for each image, its loss and whether it is misclassified, both (B,)."""
        with torch.no_grad():
            logits = self(images)
        return attack_loss(loss, logits, labels), misclassified(logits, labels)

    def gradients(self, images: Tensor, labels: Tensor, loss: Loss | LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Return `scores` and the gradient (B, C, H, W) of each image's own loss."""
        pixels = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = self(pixels)
            losses = attack_loss(loss, logits, labels)
            gradient = input_gradient(losses, pixels)
        return losses.detach(), misclassified(logits.detach(), labels), gradient


class Averaged(nn.Module):
    """The mean logits of several draws of a random model, and with them the mean of their gradients.

    So attacks follow the expectation over the model's randomness (EOT, Athalye et al. 2018).
    """

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        logits: Tensor = sum(self.model(images) for _ in range(self.draws)) / self.draws
        return logits


def input_gradient(values: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of the sum of `values` by images (B, C, H, W); zeros where the model cuts its graph."""
    found = torch.autograd.grad(values.sum(), images, allow_unused=True)[0] if values.requires_grad else None
    return torch.zeros_like(images) if found is None else found


def separate_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model; raise `ValueError`, or what its own code raises, where it cannot be copied whole."""
    copied, parts = copy.deepcopy(model), []
    for each in (model, copied):
        modules = list(each.modules())
        held = (value for module in modules for value in vars(module).values() if isinstance(value, list | dict | set))
        parts.append({id(part) for part in (*modules, *held)})
    if parts[0] & parts[1]:
        raise ValueError("the model's copy shares parts with it")
    return copied


@contextmanager
def counting(model: nn.Module) -> Iterator[CountedModel]:
    """Freeze the parameters while a model is attacked: no gradient of theirs is computed or left behind."""
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learnable:
        parameter.requires_grad_(False)
    try:
        yield CountedModel(model)
    finally:
        for parameter in learnable:
            parameter.requires_grad_(True)


def check_images(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise `InputError` unless every module is in eval mode and the images and labels are what attacks expect."""
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise InputError(f"{len(training)} modules are in training mode (first: {training[0]}): call model.eval().")
    if images.ndim != 4 or images.dtype != torch.float32:
        raise InputError(f"The images are {images.dtype} {tuple(images.shape)}: give float32 of shape (B, C, H, W).")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(f"The labels are {labels.dtype} {tuple(labels.shape)}: give int64 of shape ({len(images)},).")
    if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
        low, high = images.amin().item(), images.amax().item()
        raise InputError(f"The pixels lie in [{low:g}, {high:g}]: scale them to [0, 1] and normalise inside the model.")


def check_numbers(norm: str = "linf", *, norms: Iterable[str] = OWN_NORMS, **numbers: float) -> None:
    """Raise `InputError` for an unknown norm, a radius or step that is no positive number, or a count below 1."""
    if norm not in norms:
        raise InputError(f"Norm is {norm!r}: give {' or '.join(norms)}.")
    for name, number in numbers.items():
        least = "a number above 0" if name in ("epsilon", "step_size") else "1 or more"
        if not (math.isfinite(number) and number > 0 and (number >= 1 or "above" in least)):
            raise InputError(f"{name.replace('_', ' ').capitalize()} is {number}: give {least}.")


def batches(left: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield the indices where `left` (N,) is true, at most `batch_size` at a time."""
    rows = left.nonzero()[:, 0]
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]
