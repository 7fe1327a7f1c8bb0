"""Small models that know a small data set: one plain, one robust."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, SIZE, EPSILON = 5, 12, 8 / 255


def make_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return 8-bit images (count, 3, SIZE, SIZE) of CLASSES smooth templates in noise, and their labels."""
    generator = torch.Generator().manual_seed(99)
    coarse = torch.rand(CLASSES, 3, 3, 3, generator=generator)
    templates = F.interpolate(coarse, size=SIZE, mode="bilinear")
    generator.manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return ((templates[labels] + 0.15 * noise).clamp(0, 1) * 255).round() / 255, labels


def ascend(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = EPSILON, steps: int = 5) -> Tensor:
    """Attack by signed gradient steps on the cross-entropy from the image itself, projected to the L∞ ball."""
    current = images.clone()
    for _ in range(steps):
        leaf = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        moved = current + 2.5 * epsilon / steps * gradient.sign()
        current = moved.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    return current.detach()


def network() -> nn.Sequential:
    """Return convolutions with BatchNorm and ReLU, a linear head last."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1)]
    return nn.Sequential(*body, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 6 * 6, CLASSES))


def fit(model: nn.Module, disturb: Callable[[nn.Module, Tensor, Tensor], Tensor], steps: int = 60) -> nn.Module:
    """Fit a model to disturbed images with Adam; return it in eval mode."""
    images, labels = make_images(60, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        model.eval()
        shown = disturb(model, images, labels)
        model.train()
        optimiser.zero_grad()
        F.cross_entropy(model(shown), labels).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def test_images() -> tuple[Tensor, Tensor]:
    """Return 20 images that no model was fitted on, and their labels."""
    return make_images(20, seed=2)


@pytest.fixture(scope="session")
def plain_model() -> nn.Module:
    return fit(network(), lambda _, images, __: images)


@pytest.fixture(scope="session")
def robust_model() -> nn.Module:
    """Return an adversarially trained model (Madry et al. 2018)."""
    return fit(network(), ascend)
