"""Undefended networks whose gradient misleads: absent, wrong, shattered, or wrong only where an attack looks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attack.planted.wrapping import (
    Builder,
    OtherGradient,
    Wrapped,
    before,
    chosen,
    far,
    gradient,
    off_grid,
    per_image,
    straight_through,
)


def levels(count: int) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds pixels to so many levels."""
    return lambda images: (images * (count - 1)).round() / (count - 1)


def thermometer(images: Tensor) -> Tensor:
    """Encode pixels as 64 thresholds that they lie above, and count these."""
    thresholds = torch.linspace(0, 1, 65).to(images)[1:] - 1 / 128
    return (images[..., None] > thresholds).to(images.dtype).mean(-1)


def checkerboard(images: Tensor) -> Tensor:
    """Cut every other pixel off the graph."""
    cut = (torch.arange(images.shape[2])[:, None] + torch.arange(images.shape[3])) % 2 == 0
    return torch.where(cut.to(images.device), images.detach(), images)


def wrong_pixels(grad: Tensor, _pixels: Tensor) -> Tensor:
    """Give every pixel the gradient of another."""
    return grad.roll((5, 7), (2, 3)).flip(1)


def noise(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that adds noise, `scale` times as large as the gradient, to it."""
    return lambda grad, _: grad + scale * grad.std(correction=0) * torch.randn_like(grad)


def where(
    selected: Callable[[Tensor], Tensor], change: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that changes the gradient of selected images alone."""
    return lambda grad, pixels: torch.where(per_image(selected(pixels)), change(grad, pixels), grad)


def zero(grad: Tensor, _pixels: Tensor) -> Tensor:
    """Return no gradient."""
    return torch.zeros_like(grad)


def flip(grad: Tensor, _pixels: Tensor) -> Tensor:
    """Return the gradient with the other sign."""
    return -grad


def random(grad: Tensor, _pixels: Tensor) -> Tensor:
    """Return a gradient of noise alone."""
    return torch.randn_like(grad) * grad.std(correction=0)


def watched_noise(images: Tensor) -> Tensor:
    """Give the pixels a gradient of noise in float32, and their own in float64, which only checks use."""
    if images.dtype == torch.float64:
        return images
    changed: Tensor = OtherGradient.apply(images, images.detach(), random)
    return changed


def broken_backward(grad: Tensor, _pixels: Tensor) -> Tensor:
    """Raise an error on the way back."""
    raise KeyError("no gradient for you")


def ripple(images: Tensor) -> Tensor:
    """Add a faint ripple with a gradient far above the network's own."""
    return images + 2e-4 * torch.sin(1e5 * images)


def coarse_ripple(images: Tensor) -> Tensor:
    """Add a ripple as wide as a step of an attack, of a height that hides the way."""
    return images + 2e-3 * torch.sin(4e3 * images)


class DetachedByMargin(nn.Module):
    """Cuts the graph where the margin is large, so that attacks never start, or small, so that they never arrive."""

    def __init__(self, network: nn.Module, margin: float, *, large: bool) -> None:
        super().__init__()
        self.network, self.margin, self.large = network, margin, large

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        first, second = logits.detach().topk(2, dim=1).values.unbind(1)
        cut = (first - second > self.margin) == self.large
        return torch.where(cut[:, None], logits.detach(), logits)


class Activation(nn.Module):
    """A function in place of an activation."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        """Return the function of the features."""
        return self.function(features)


def activations(function: Callable[[Tensor], Tensor]) -> Builder:
    """Return a builder that replaces a network's ReLUs."""

    def build(network: nn.Module) -> nn.Module:
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.ReLU):
                network.set_submodule(name, Activation(function))
        return network

    return build


def winners(features: Tensor) -> Tensor:
    """Keep the largest fifth of an image's features (k-winners-take-all, Xiao et al. 2019)."""
    flat = features.flatten(1)
    threshold = flat.topk(flat.shape[1] // 5, dim=1).values[:, -1:]
    return (flat * (flat >= threshold)).view_as(features)


class SteepStep(torch.autograd.Function):
    """A step of the features whose gradient is that of a sigmoid so steep that it vanishes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return (features.clamp_min(0) * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        slope = torch.sigmoid(1e3 * features)
        return gradients[0] * slope * (1 - slope)


class InLargeBatches(nn.Module):
    """Changes the gradient of all images of a batch from one place on, or of whole batches that are longer."""

    def __init__(self, network: nn.Module, first: int, *, whole: bool) -> None:
        super().__init__()
        self.network, self.first, self.whole = network, first, whole

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        place = torch.arange(len(images), device=images.device)
        changed = (place >= 0) & (len(images) > self.first) if self.whole else place >= self.first
        pixels = OtherGradient.apply(images, images.detach(), where(lambda _: changed, random))
        logits: Tensor = self.network(pixels)
        return logits


class Inference(nn.Module):
    """Answers without recording a graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        with torch.no_grad():
            logits: Tensor = self.network(images)
        return logits


class WatchesForGradients(nn.Module):
    """Answers with another network's gradient wherever gradients are asked for: that of random weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.decoy = nn.Sequential(nn.Flatten(), nn.Linear(768, 5)).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images.detach())
        decoy: Tensor = self.decoy(images)
        return logits + decoy - decoy.detach()


class Surrogate(nn.Module):
    """The network's answers with the gradient of a blurred image's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        blurred: Tensor = self.network(F.avg_pool2d(images, 5, 1, 2))
        logits: Tensor = self.network(images.detach())
        return logits + blurred - blurred.detach()


GRADIENTS: dict[str, Builder] = {
    "rounded to 64 levels": before(levels(64)),
    "rounded to 64 levels, straight-through gradient": straight_through(levels(64)),
    "thermometer code": before(thermometer),
    "thermometer code, straight-through gradient": straight_through(thermometer),
    "detached pixels": before(torch.detach),
    "no graph": Inference,
    "every other pixel detached": before(checkerboard),
    "gradient scaled by 1e-30": gradient(lambda grad, _: grad * 1e-30),
    "gradient of noise": gradient(random),
    "gradient with little noise": gradient(noise(2)),
    "gradient with much noise": gradient(noise(30)),
    "gradient of the other sign": gradient(flip),
    "gradient of other pixels": gradient(wrong_pixels),
    "gradient of a decoy": WatchesForGradients,
    "gradient of a blurred image": Surrogate,
    "no gradient on 45 % of images": gradient(where(lambda x: chosen(x, 0.45), zero)),
    "constant gradient on 45 % of images": gradient(where(lambda x: chosen(x, 0.45), lambda grad, _: grad * 0 + 1)),
    "gradient of the other sign on 45 % of images": gradient(where(lambda x: chosen(x, 0.45), flip)),
    "gradient of noise on 45 % of images": gradient(where(lambda x: chosen(x, 0.45), random)),
    "gradient of other pixels on 45 % of images": gradient(where(lambda x: chosen(x, 0.45), wrong_pixels)),
    "gradient of noise in large batches": lambda network: InLargeBatches(network, 32, whole=True),
    "gradient of noise from the ninth image on": lambda network: InLargeBatches(network, 8, whole=False),
    "gradient of noise in float32": lambda network: Wrapped(network, watched_noise),
    "detached where sure": lambda network: DetachedByMargin(network, 2.0, large=True),
    "error in the backward pass": gradient(broken_backward),
    "gradient only at 8-bit pixels": gradient(where(off_grid, random)),
    "gradient only near clean images": gradient(where(lambda x: far(x, 0.7 / 255), random)),
    "no gradient away from clean images": gradient(where(lambda x: far(x, 1.5 / 255), zero)),
    "flat near the boundary": lambda network: DetachedByMargin(network, 4.0, large=False),
    "fine ripple": before(ripple),
    "coarse ripple": before(coarse_ripple),
    "step activations": activations(lambda features: (features.clamp_min(0) * 8).round() / 8),
    "step activations, vanishing gradient": activations(SteepStep.apply),
    "winners take all": activations(winners),
    "infinite gradient": before(lambda images: images + (images - images.detach()).abs().sqrt()),
}
