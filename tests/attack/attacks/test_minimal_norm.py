import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack.attacks import Norm
from attack.attacks.minimal_norm import minimal_norm
from attack.attacks.pgd import pgd
from stylize.console import InputError
from tests.attack.attacks.models import conv_model, linear_model, pictures, predicted

NORMS: tuple[Norm, ...] = ("l2", "linf")
STEPS = 80  # a half from inside, a half from outside


def distances(found: Tensor, images: Tensor, norm: Norm) -> Tensor:
    moved = (found.double() - images.double()).flatten(1)
    return moved.norm(dim=1) if norm == "l2" else moved.abs().amax(1)


def exact_distances(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm) -> list[float]:
    """The nearest of a linear model's boundaries, in float64, for images whose way there meets no end of [0, 1]."""
    weight, bias = (parameter.detach().double().numpy() for parameter in model.parameters())
    nearest = []
    for image, label in zip(images.double().flatten(1).numpy(), labels, strict=True):
        ways = []
        for other in range(len(bias)):
            if other != label:
                difference = weight[label] - weight[other]
                margin = difference @ image + bias[label] - bias[other]
                ways.append(margin / (np.linalg.norm(difference) if norm == "l2" else np.abs(difference).sum()))
        nearest.append(min(ways))
    return nearest


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_models_distances_are_known(norm: Norm) -> None:
    model, images = linear_model(), pictures(16, low=0.4, high=0.6)
    labels = predicted(model, images)

    found = minimal_norm(model, images, labels, norm=norm, steps=STEPS, seed=0, batch_size=5)

    assert (predicted(model, found.images) != labels).all()
    ratio = distances(found.images, images, norm).numpy() / exact_distances(model, images, labels, norm)
    assert ratio.min() > 1
    assert ratio.max() < 1.002
    assert found.backwards == 16 * STEPS
    assert found.forwards == 16 * (STEPS + 1)


@pytest.mark.parametrize(("norm", "epsilons"), [("l2", (0.1, 0.2, 0.4)), ("linf", (0.01, 0.02, 0.05))])
def test_agrees_with_pgd_at_every_radius(norm: Norm, epsilons: tuple[float, ...]) -> None:
    model, images = conv_model(), pictures(24)
    labels = predicted(model, images)

    found = minimal_norm(model, images, labels, norm=norm, steps=60, seed=0, batch_size=24)

    assert (predicted(model, found.images) != labels).all()
    reached = distances(found.images, images, norm)
    for epsilon in epsilons:
        attacked = pgd(model, images, labels, norm=norm, epsilon=epsilon, steps=30, step_size=epsilon / 6,
                       loss="margin", restarts=1, seed=0, batch_size=24)  # fmt: skip
        broken = predicted(model, attacked.images) != labels
        assert 0 < broken.sum() < 24
        assert ((reached <= epsilon) >= broken).all(), "what PGD breaks lies within the radius"


def test_wrong_images_and_hopeless_models_come_back_unchanged() -> None:
    model, images = conv_model(), pictures(4)
    labels = predicted(model, images)
    labels[1] = (labels[1] + 1) % 5
    found = minimal_norm(model, images, labels, norm="l2", steps=10, seed=0, batch_size=4)
    assert torch.equal(found.images[1], images[1])
    assert found.backwards == 3 * 10

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([[1.0, 0.0]])

    found = minimal_norm(Constant().eval(), images, torch.zeros(4, dtype=torch.int64), norm="linf", steps=10, seed=0,
                         batch_size=4)  # fmt: skip
    assert torch.equal(found.images, images)


def test_a_gradient_that_is_zero_at_the_image_is_left_behind() -> None:
    class Flat(nn.Module):
        """Class 0 within ±0.05 of grey, where the gradient is zero; class 1 further away."""

        def forward(self, images: Tensor) -> Tensor:
            away = nn.functional.relu((images - 0.5).abs() - 0.05).flatten(1).sum(1)
            return torch.stack([torch.full_like(away, 0.01), away], 1)

    grey, labels = torch.full((3, 3, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64)
    found = minimal_norm(Flat().eval(), grey, labels, norm="l2", steps=100, seed=0, batch_size=3)

    assert (predicted(Flat(), found.images) != labels).all()
    assert distances(found.images, grey, "l2").max() < 0.2 * math.sqrt(192) / 2


@pytest.mark.parametrize("norm", NORMS)
def test_the_found_images_hold_in_other_batches(norm: Norm) -> None:
    model, images = conv_model(), pictures(30)
    labels = predicted(model, images)
    state = torch.random.get_rng_state()
    settings: dict[str, Any] = {"norm": norm, "steps": 30, "seed": 0}

    found = minimal_norm(model, images, labels, **settings, batch_size=7).images
    whole = minimal_norm(model, images, labels, **settings, batch_size=30).images

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(predicted(model, found[i : i + 1]) != labels[i] for i in range(30))
    torch.testing.assert_close(distances(found, images, norm), distances(whole, images, norm), rtol=1e-3, atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_what_is_refused() -> None:
    images, labels = pictures(2), torch.tensor([0, 1])
    settings: dict[str, Any] = {"norm": "l2", "steps": 5, "seed": 0, "batch_size": 2}
    for change, message in (
        ({"norm": "l0"}, "'l0'"),
        ({"steps": 0}, "Steps is 0"),
        ({"batch_size": -1}, "Batch size is -1"),
    ):
        with pytest.raises(InputError, match=message):
            minimal_norm(conv_model(), images, labels, **{**settings, **change})
    with pytest.raises(InputError, match="training mode"):
        minimal_norm(conv_model().train(), images, labels, **settings)
