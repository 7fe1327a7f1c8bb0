"""The planted example is found through a sound model and missed through a masked one, or by a bad attack."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attack.attacks import Attacked
from attack.attacks.pgd import pgd
from attack.checks import Check
from attack.checks.planted import check_planted

EPSILON = 8 / 255
Images = tuple[Tensor, Tensor]
Attack = Callable[[nn.Module, Tensor, Tensor], Attacked]


def ascend(model: nn.Module, images: Tensor, labels: Tensor, *, sign: int = 1, steps: int = 10) -> Attacked:
    """Attack by signed gradient steps on the cross-entropy."""
    current = images.clone()
    for _ in range(steps):
        leaf = current.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        moved = current + sign * EPSILON / 4 * gradient.sign()
        current = moved.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return Attacked(current.detach(), 0, 0)


def noise(model: nn.Module, images: Tensor, labels: Tensor) -> Attacked:
    return Attacked((images + EPSILON * (2 * torch.rand_like(images) - 1)).clamp(0, 1), 0, 0)


def outside(model: nn.Module, images: Tensor, labels: Tensor) -> Attacked:
    attacked = ascend(model, images, labels).images
    return Attacked((images + 3 * (attacked - images)).clamp(0, 1), 0, 0)


def nothing(model: nn.Module, images: Tensor, labels: Tensor) -> Attacked:
    return Attacked(images, 0, 0)


def downhill(model: nn.Module, images: Tensor, labels: Tensor) -> Attacked:
    return ascend(model, images, labels, sign=-1)


class Quantised(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images * 64).round() / 64


class Shattered(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images + 2e-4 * torch.sin(1e5 * images)


def plant(model: nn.Module, images: Images, attack: Attack = ascend) -> Check:
    return check_planted(model, images[0], attack, epsilon=EPSILON)


@pytest.mark.parametrize("kind", ["plain_model", "robust_model"])
def test_it_is_found_through_a_sound_model(kind: str, test_images: Images, request: pytest.FixtureRequest) -> None:
    check = plant(request.getfixturevalue(kind), test_images)
    assert check.passed
    assert check.numbers == {"found": 8, "planted": 8, "images": 20}


@pytest.mark.parametrize("attack", [noise, outside, nothing, downhill])
def test_a_bad_attack_misses_it(plain_model: nn.Module, test_images: Images, attack: Attack) -> None:
    check = plant(plain_model, test_images, attack)
    assert (check.passed, check.failure) == (False, "masking")
    assert check.numbers["found"] <= 2


@pytest.mark.parametrize("mask", [Quantised(), Shattered()])
def test_a_masked_gradient_misses_it(plain_model: nn.Module, test_images: Images, mask: nn.Module) -> None:
    check = plant(nn.Sequential(mask, plain_model).eval(), test_images)
    assert (check.passed, check.failure) == (False, "masking")


def test_it_is_planted_in_an_l2_ball_too(plain_model: nn.Module, test_images: Images) -> None:
    within = partial(pgd, norm="l2", epsilon=0.5, loss="margin", steps=20)
    for attack, passed in ((within, True), (nothing, False)):
        check = check_planted(plain_model, test_images[0], attack, epsilon=0.5, norm="l2")
        assert (check.passed, check.title) == (passed, "planted examples are found, L2 0.5")


def test_a_model_without_a_linear_layer_offers_its_logits(plain_model: nn.Module, test_images: Images) -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 100, 12)

        def forward(self, images: Tensor) -> Tensor:
            return torch.relu(self.layer(images)).flatten(1)

    assert plant(Convolution().eval(), test_images).passed


def test_features_that_tell_nothing_apart_are_said_to_be_so(test_images: Images) -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval()
    nn.init.zeros_(constant[1].weight)  # type: ignore[arg-type]
    check = plant(nn.Sequential(constant, nn.Linear(5, 5)).eval(), test_images)
    assert (check.passed, check.failure) == (False, "note")
    assert "too few" in check.detail
