from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from train.methods import METHODS, least_likely_adversaries

LABELS = torch.tensor([0, 2, 1, 1])
Array = NDArray[np.float64]


def _linear() -> tuple[nn.Module, Callable[[Array], Array], Array]:
    """Return a linear classifier of 2 x 2 images, the same in NumPy, and its weight."""
    torch.manual_seed(0)
    linear = nn.Linear(12, 3)
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    return nn.Sequential(nn.Flatten(), linear), lambda images: images.reshape(len(images), -1) @ weight.T + bias, weight


def _pairs() -> torch.Tensor:
    return torch.rand(4, 2, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def _cross_entropy(logits: Array) -> float:
    return float(-np.log(_softmax(logits)[range(4), LABELS.numpy()]).mean())


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_pairing_is_equation_6(weight: float) -> None:
    model, logits, _ = _linear()
    pairs = _pairs()
    original, styled = (logits(pairs[:, view].double().numpy()) for view in range(2))
    expected = (_cross_entropy(original) + _cross_entropy(styled)) / 2 + weight * ((original - styled) ** 2).mean()
    assert METHODS["pairing"].loss(model, pairs, LABELS, weight).item() == pytest.approx(expected, rel=1e-5)


def test_stylized_is_pairing_without_the_pairing_loss() -> None:
    model, _, _ = _linear()
    stylized = METHODS["stylized"].loss(model, _pairs(), LABELS, 3.0)
    assert stylized.item() == METHODS["pairing"].loss(model, _pairs(), LABELS, 0.0).item()
    assert stylized.item() != METHODS["pairing"].loss(model, _pairs(), LABELS, 3.0).item()


def test_normal_sees_originals_only() -> None:
    model, logits, _ = _linear()
    pairs = _pairs()
    loss = METHODS["normal"].loss(model, pairs[:, :1], LABELS, 1.0).item()
    assert loss == pytest.approx(_cross_entropy(logits(pairs[:, 0].double().numpy())), rel=1e-5)


def _slow_adversaries(images: Array, logits: Callable[[Array], Array], weight: Array) -> Array:
    """Take one image after the other; the gradient of a linear model is Wᵀ (softmax - one-hot)."""
    result = []
    for image in images:
        (scores,) = logits(image[None])
        target = np.eye(3)[scores.argmin()]
        gradient = (weight.T @ (_softmax(scores) - target)).reshape(image.shape)
        result.append(np.clip(image - 0.1 * np.sign(gradient), 0, 1))
    return np.stack(result)


def test_adversarial_against_a_slow_loop() -> None:
    model, logits, weight = _linear()
    images = _pairs()[:, :1]
    originals = images[:, 0].double().numpy()
    expected = _slow_adversaries(originals, logits, weight)
    np.testing.assert_allclose(least_likely_adversaries(model, images[:, 0], 0.1).numpy(), expected, atol=1e-6)
    mean = (_cross_entropy(logits(originals)) + _cross_entropy(logits(expected))) / 2
    assert METHODS["adversarial"].loss(model, images, LABELS, 1.0).item() == pytest.approx(mean, rel=1e-5)


def test_making_adversaries_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = _pairs()[:, 0]
    adversaries = least_likely_adversaries(model, images, 0.1)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # BatchNorm by hand with the batch's own statistics: the function that is being trained.
    leaf = images.clone().requires_grad_()
    features = model[0](leaf)
    centred = features - features.mean((0, 2, 3), keepdim=True)
    logits = model[3]((centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()).flatten(1))
    loss = nn.functional.cross_entropy(logits, logits.argmin(1))
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(adversaries, (images - 0.1 * gradient.sign()).clamp(0, 1))


def test_losses_reach_every_parameter() -> None:
    for method in METHODS.values():
        model, _, _ = _linear()
        loss = method.loss(model, _pairs() if method.with_styled else _pairs()[:, :1], LABELS, 1.0)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
