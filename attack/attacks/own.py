"""Attacks, losses and surrogates of the user's own: what they return is checked before it counts."""

from collections.abc import Callable, Collection
from contextlib import suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from attack.attacks import BATCH_SIZE, Attacked, LossFunction, Norm, batches, check_images, counting, size
from stylize.console import InputError
from stylize.console.references import load_reference, reason_of

ROUNDING = 1e-4  # of the radius: pixels are float32


def own_loss(reference: str) -> LossFunction:
    """Return a loss for `pgd`, named as `package.module:function`, from logits (B, classes) and labels (B,) to (B,)."""
    function = load_reference(reference, "Loss")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        losses: Tensor = _call(function, f"Loss {reference}", logits, labels)
        if not isinstance(losses, Tensor) or losses.shape != labels.shape:
            raise InputError(f"Loss {reference} returned {_what(losses)}: return one for each of {len(labels)} images.")
        return losses

    return loss


def own_attack(
    reference: str, *, epsilon: float, norm: Norm = "linf", batch_size: int = BATCH_SIZE
) -> Callable[[nn.Module, Tensor, Tensor], Attacked]:
    """Return an attack, named as `package.module:function`, that takes a model, images (N, C, H, W) and labels (N,).

    The function is called with images, labels and the model, and with `epsilon` and `norm` where it has arguments of
    these names; it returns as many images. Those outside of the ball or of [0, 1] count as not attacked, and are
    counted in `Attacked.outside`.

    Raises:
        InputError: there is no such function; later, it fails, or what it returns are not as many images.
    """
    function = load_reference(reference, "Attack")
    named = {"epsilon": epsilon, "norm": norm}
    known: Collection[str] = ()
    with suppress(ValueError):  # a built-in function may not tell
        known = signature(function).parameters
    options = {name: value for name, value in named.items() if name in known}

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Attacked:
        check_images(model, images, labels)
        found, inside = images.clone(), torch.ones_like(labels, dtype=torch.bool)
        with counting(model) as counted:
            for rows in batches(inside.clone(), batch_size):
                given = images[rows].clone(), labels[rows].clone(), counted
                moved = _call(function, f"Attack {reference}", *given, **options)
                if not isinstance(moved, Tensor) or moved.shape != images[rows].shape:
                    wanted = tuple(images[rows].shape)
                    raise InputError(f"Attack {reference} returned {_what(moved)}: return images of shape {wanted}.")
                moved = moved.detach().to(images)
                near = size(moved.double() - images[rows].double(), norm) <= epsilon * (1 + ROUNDING)
                inside[rows] = near & ((moved >= 0) & (moved <= 1)).flatten(1).all(1)
                found[rows] = torch.where(inside[rows, None, None, None], moved, images[rows])
        return Attacked(found, counted.forwards, counted.backwards, outside=int((~inside).sum()))

    return attack


class WithGradientOf(nn.Module):
    """The logits of a model with the gradient of a surrogate (BPDA, Athalye et al. 2018)."""

    def __init__(self, model: nn.Module, surrogate: nn.Module) -> None:
        super().__init__()
        self.model, self.surrogate = model, surrogate

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W); raise `InputError` where the surrogate has others."""
        logits: Tensor = self.model(images.detach())
        if not (images.requires_grad and torch.is_grad_enabled()):
            return logits
        gives_way: Tensor = self.surrogate(images)
        if gives_way.shape != logits.shape:
            found, wanted = tuple(gives_way.shape), tuple(logits.shape)
            raise InputError(f"The surrogate's logits have the shape {found}: give a network that returns {wanted}.")
        return logits.detach() + (gives_way - gives_way.detach())  # in this order, so that logits are not rounded


def _call(function: Callable[..., Any], title: str, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{title} fails ({reason_of(error)}): mend it.") from error


def _what(returned: Any) -> str:
    return f"a tensor of shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__
