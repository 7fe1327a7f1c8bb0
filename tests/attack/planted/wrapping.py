"""What planted models are built from: a network between functions of its pixels, its gradient and its logits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.attack.planted.networks import TEST, TEST_SEED, draw_images

Builder = Callable[[nn.Module], nn.Module]


class Wrapped(nn.Module):
    """A network between a function of its pixels and a function of its logits."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(self.before(images) if self.before else images)
        return self.after(logits) if self.after else logits


def before(function: Callable[[Tensor], Tensor]) -> Builder:
    """Return a builder that puts a function of the pixels before a network."""
    return lambda network: Wrapped(network, function)


def after(function: Callable[[Tensor], Tensor]) -> Builder:
    """Return a builder that puts a function of the logits after a network."""
    return lambda network: Wrapped(network, None, function)


class OtherGradient(torch.autograd.Function):
    """`value` with the gradient that `change` makes of gradient and pixels; a straight-through one where it is None."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, value: Tensor, change: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        ctx.save_for_backward(pixels)
        ctx.change = change
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (pixels,) = ctx.saved_tensors
        return ctx.change(gradients[0], pixels) if ctx.change else gradients[0], None, None


def gradient(change: Callable[[Tensor, Tensor], Tensor]) -> Builder:
    """Return a builder that leaves the answers alone and changes the gradient (N, C, H, W) that reaches the pixels."""
    return before(lambda images: OtherGradient.apply(images, images.detach(), change))


def straight_through(function: Callable[[Tensor], Tensor]) -> Builder:
    """Return a builder that puts a function before a network whose gradient is taken to be 1."""
    return before(lambda images: OtherGradient.apply(images, function(images.detach()), None))


@cache
def known_images() -> Tensor:
    """Return the clean test images, which a cheating defence knows."""
    return draw_images(TEST, TEST_SEED)[0]


def per_image(numbers: Tensor) -> Tensor:
    """Give one number an image the shape (N, 1, 1, 1)."""
    return numbers[:, None, None, None]


def chosen(images: Tensor, share: float) -> Tensor:
    """Return which images (N,) belong to a share of all, by a property that no small change of the pixels moves."""
    threshold = _balance(known_images()).quantile(share).to(images)
    return _balance(images.detach()) < threshold


def _balance(images: Tensor) -> Tensor:
    return images[..., : images.shape[3] // 2].mean((1, 2, 3)) - images.mean((1, 2, 3))


def off_grid(images: Tensor) -> Tensor:
    """Return which images (N,) have pixels that no 8-bit file holds."""
    levels = images.detach() * 255
    return ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)


def far(images: Tensor, radius: float) -> Tensor:
    """Return which images (N,) are farther than a radius from all clean test images, in L∞."""
    known = known_images().to(images)
    return torch.cdist(images.detach().flatten(1), known.flatten(1), p=torch.inf).amin(1) > radius
