"""Planted models are what they are said to be: an attack on the network behind a defence breaks it."""

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.attack.planted.honest import HONEST
from tests.attack.planted.networks import TEST, TEST_SEED, draw_images, undefended
from tests.attack.planted.zoo import BROKEN, build

EPSILON = 8 / 255


@cache
def images_attacked_without_defence() -> tuple[Tensor, Tensor]:
    """Return images attacked within 8/255 through the bare network by signed gradient steps on the margin."""
    images, labels = draw_images(TEST, TEST_SEED)
    current = images.clone()
    for _ in range(10):
        leaf = current.requires_grad_()
        logits = undefended()(leaf)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((others - logits.gather(1, labels[:, None])[:, 0]).sum(), leaf)
        moved = leaf.detach() + EPSILON / 4 * gradient.sign()
        current = moved.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return current, labels


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_fall_to_an_attack_on_the_network_behind(name: str) -> None:
    attacked, labels = images_attacked_without_defence()
    images, _ = draw_images(TEST, TEST_SEED)
    with torch.no_grad():
        clean = build(name, broken=True)(images).argmax(1) == labels
        left = build(name, broken=True)(attacked).argmax(1) == labels
    assert clean.float().mean() > 0.7
    assert left.float().mean() < 0.3  # an answer that is always the same is right in 0.2


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_answer_as_a_robust_network(name: str) -> None:
    images, labels = draw_images(TEST, TEST_SEED)
    with torch.no_grad():
        answers = build(name, broken=False)(images[:60]).argmax(1)
    assert (answers == labels[:60]).float().mean() > 0.95
