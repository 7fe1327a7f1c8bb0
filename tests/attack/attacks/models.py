"""Small models whose attacks are known or quick."""

import math

import torch
from torch import Tensor, nn

from attack.attacks import attack_loss

CLASSES = 5
SHAPE = (3, 8, 8)


def linear_model(classes: int = CLASSES, *, seed: int = 0) -> nn.Module:
    """A linear model with many weights of one size, so that minimal perturbations stay inside [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(math.prod(SHAPE), classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer).eval()


def conv_model(classes: int = CLASSES, *, seed: int = 0) -> nn.Module:
    """A small convolutional net with smooth and kinked parts, whose logits are a few units large."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.SiLU(),
            nn.Flatten(), nn.Linear(72, classes),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)
    return model.eval()


def pictures(count: int, *, low: float = 0.0, high: float = 1.0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, *SHAPE, generator=generator)


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(images).argmax(1)
    return labels


def losses_of(model: nn.Module, images: Tensor, labels: Tensor, loss: str = "ce") -> Tensor:
    with torch.no_grad():
        return attack_loss(loss, model(images), labels)  # type: ignore[arg-type]
