"""Small models that know a small data set: one plain, one robust."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, SIZE, EPSILON = 5, 12, 8 / 255


def make_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return 8-bit images (count, 3, SIZE, SIZE) in noise, and their labels.

    Each class has a bright bar of its own, which survives an attack, and a faint texture, which does not.
    """
    generator = torch.Generator().manual_seed(99)
    texture = torch.randint(0, 2, (CLASSES, 3, SIZE, SIZE), generator=generator) * 2 - 1
    bars = torch.zeros(CLASSES, 3, SIZE, SIZE)
    for label in range(CLASSES):
        bars[label, :, 2 * label : 2 * label + 2] = 1
    generator.manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, 3, SIZE, SIZE, generator=generator)
    images = 0.4 + 0.12 * bars[labels] + 0.015 * texture[labels] + 0.025 * noise
    return (images.clamp(0, 1) * 255).round() / 255, labels


def ascend(model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float = EPSILON, steps: int = 4) -> Tensor:
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


def fit(model: nn.Module, disturb: Callable[[nn.Module, Tensor, Tensor], Tensor], steps: int = 40) -> nn.Module:
    """Fit a model to disturbed images with Adam; return it in eval mode."""
    images, labels = make_images(40, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        model.eval()
        shown = disturb(model, images, labels)
        model.train()
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(shown), labels))
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
