from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import nn

from train.augment import VIEWS
from train.methods import (
    DISTANCES,
    METHODS,
    Settings,
    least_likely_adversaries,
    noisy_fgsm_adversaries,
    pgd_adversaries,
)

LABELS = torch.tensor([0, 2, 1, 1])
Array = NDArray[np.float64]


def _linear() -> tuple[nn.Module, Callable[[Array], Array], Array]:
    """Return a linear classifier of 2 x 2 images, the same in NumPy, and its weight."""
    torch.manual_seed(0)
    linear = nn.Linear(12, 3)
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    return nn.Sequential(nn.Flatten(), linear), lambda images: images.reshape(len(images), -1) @ weight.T + bias, weight


def _views(count: int = 2) -> torch.Tensor:
    return torch.rand(4, count, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def _cross_entropy(logits: Array) -> float:
    return float(-np.log(_softmax(logits)[range(4), LABELS.numpy()]).mean())


def _losses(method: str, views: torch.Tensor, settings: Settings | None = None) -> tuple[float, float | None]:
    model, _, _ = _linear()
    torch.manual_seed(3)  # of PGD's start
    losses = METHODS[method].loss(model, views, LABELS, settings or Settings())
    return losses.cross_entropy.item(), None if losses.pairing is None else losses.pairing.item()


def test_pairing_is_equation_6() -> None:
    _, logits, _ = _linear()
    views = _views()
    original, styled = (logits(views[:, view].double().numpy()) for view in range(2))
    expected = ((_cross_entropy(original) + _cross_entropy(styled)) / 2, ((original - styled) ** 2).mean())
    assert _losses("pairing", views) == pytest.approx(expected, rel=1e-5)
    cross_entropy, none = _losses("stylized", views)
    assert cross_entropy == pytest.approx(expected[0], rel=1e-5)
    assert none is None


def test_normal_sees_originals_only() -> None:
    _, logits, _ = _linear()
    views = _views(1)
    assert _losses("normal", views)[0] == pytest.approx(_cross_entropy(logits(views[:, 0].double().numpy())), rel=1e-5)


def _distance(name: str, logits: Array) -> float:
    """Return a distance of logits (V, classes) of one image, by SciPy where it has it."""
    original, *partners = logits
    probabilities = [_softmax(row) for row in logits]
    mixture = np.mean(probabilities, axis=0)
    if name == "jsd" and len(logits) == 2:
        return float(jensenshannon(probabilities[0].tolist(), probabilities[1].tolist()) ** 2)
    found = {
        "mse": [np.mean((original - row) ** 2) for row in partners],
        "kl": [entropy(probabilities[0], row) for row in probabilities[1:]],
        "jsd": [entropy(row, mixture) for row in probabilities],
        "cosine": [1 - original @ row / np.linalg.norm(original) / np.linalg.norm(row) for row in partners],
    }
    return float(np.mean(found[name]))


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("name", DISTANCES)
def test_distances_against_scipy(name: str, views: int) -> None:
    logits = 3 * np.random.default_rng(0).normal(size=(4, views, 5))
    expected = np.mean([_distance(name, image) for image in logits])
    assert DISTANCES[name](torch.from_numpy(logits)).item() == pytest.approx(expected, rel=1e-6)
    same = torch.ones(4, views, 5, dtype=torch.float64)
    assert DISTANCES[name](same).item() == pytest.approx(0, abs=1e-12)


def test_augmix_counts_the_original_once() -> None:
    _, logits, _ = _linear()
    views = _views(3)
    found = np.stack([logits(views[:, view].double().numpy()) for view in range(3)], 1)
    expected = (_cross_entropy(found[:, 0]), np.mean([_distance("jsd", image) for image in found]))
    assert _losses("augmix", views, Settings(DISTANCES["jsd"])) == pytest.approx(expected, rel=1e-5)
    assert METHODS["augmix"].loss is METHODS["jsd"].loss


def test_clean_logit_pairing_pairs_neighbours() -> None:
    _, logits, _ = _linear()
    views = _views(1)
    found = logits(views[:, 0].double().numpy())
    expected = (_cross_entropy(found), np.mean([(found[0] - found[1]) ** 2, (found[2] - found[3]) ** 2]))
    assert _losses("clp", views) == pytest.approx(expected, rel=1e-5)


def _gradient(scores: Array, target: int, weight: Array) -> Array:
    """Return the gradient of a linear model's cross-entropy: Wᵀ (softmax - one-hot)."""
    return np.asarray(weight.T @ (_softmax(scores) - np.eye(3)[target]))


def _slow_adversaries(images: Array, logits: Callable[[Array], Array], weight: Array) -> Array:
    """Take one image after the other."""
    result = []
    for image in images:
        (scores,) = logits(image[None])
        gradient = _gradient(scores, int(scores.argmin()), weight).reshape(image.shape)
        result.append(np.clip(image - 0.1 * np.sign(gradient), 0, 1))
    return np.stack(result)


def test_adversarial_against_a_slow_loop() -> None:
    model, logits, weight = _linear()
    images = _views(1)
    originals = images[:, 0].double().numpy()
    expected = _slow_adversaries(originals, logits, weight)
    np.testing.assert_allclose(least_likely_adversaries(model, images[:, 0], 0.1).numpy(), expected, atol=1e-6)
    mean = (_cross_entropy(logits(originals)) + _cross_entropy(logits(expected))) / 2
    assert _losses("adversarial", images, Settings(epsilon=0.1))[0] == pytest.approx(mean, rel=1e-5)


def _slow_pgd(images: Array, start: Array, logits: Callable[[Array], Array], weight: Array, epsilon: float) -> Array:
    """Take one image after the other: Madry et al. (2018), seven steps of 2.5 ε / 7."""
    result = []
    for image, moved, label in zip(images, start, LABELS.numpy(), strict=True):
        for _ in range(7):
            (scores,) = logits(moved[None])
            moved = moved + 2.5 * epsilon / 7 * np.sign(_gradient(scores, label, weight).reshape(image.shape))
            moved = np.clip(np.clip(moved, image - epsilon, image + epsilon), 0, 1)
        result.append(moved)
    return np.stack(result)


def test_pgd_and_adversarial_logit_pairing_against_a_slow_loop() -> None:
    model, logits, weight = _linear()
    views, epsilon = _views(1), 0.05
    images = views[:, 0]
    torch.manual_seed(3)
    start = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1).double().numpy()
    originals = images.double().numpy()
    expected = _slow_pgd(originals, start, logits, weight, epsilon)
    torch.manual_seed(3)
    np.testing.assert_allclose(pgd_adversaries(model, images, LABELS, epsilon, 7).numpy(), expected, atol=1e-6)
    clean, attacked = logits(originals), logits(expected)
    assert _losses("pgd", views, Settings(epsilon=epsilon))[0] == pytest.approx(_cross_entropy(attacked), rel=1e-5)
    both = ((_cross_entropy(clean) + _cross_entropy(attacked)) / 2, np.mean((clean - attacked) ** 2))
    assert _losses("alp", views, Settings(epsilon=epsilon)) == pytest.approx(both, rel=1e-5)
    assert _cross_entropy(attacked) > _cross_entropy(clean) + 0.01


def test_noisy_fgsm_alone_and_with_pairing_against_a_slow_loop() -> None:
    """One step of ε from noise of 2 ε, image after image, clipped to pixels only (de Jorge et al. 2022)."""
    model, logits, weight = _linear()
    views, epsilon = _views(2), 0.05
    torch.manual_seed(3)
    noise = torch.empty_like(views[:, 0]).uniform_(-2 * epsilon, 2 * epsilon).double().numpy()
    expected = []
    for image, moved, label in zip(views[:, 0].double().numpy(), noise, LABELS.numpy(), strict=True):
        noisy = np.clip(image + moved, 0, 1)
        gradient = _gradient(logits(noisy[None])[0], label, weight).reshape(image.shape)
        expected.append(np.clip(noisy + epsilon * np.sign(gradient), 0, 1))
    torch.manual_seed(3)
    found = noisy_fgsm_adversaries(model, views[:, 0], LABELS, epsilon)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert 2 * epsilon < (found - views[:, 0]).abs().max() <= 3 * epsilon + 1e-6
    attacked, styled = logits(np.stack(expected)), logits(views[:, 1].double().numpy())
    settings = Settings(epsilon=epsilon)
    assert _losses("nfgsm", views[:, :1], settings)[0] == pytest.approx(_cross_entropy(attacked), rel=1e-5)
    both = ((_cross_entropy(attacked) + _cross_entropy(styled)) / 2, np.mean((attacked - styled) ** 2))
    assert _losses("nfgsm_pairing", views, settings) == pytest.approx(both, rel=1e-5)


def test_making_adversaries_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = _views()[:, 0]
    adversaries = least_likely_adversaries(model, images, 0.1)
    pgd_adversaries(model, images, LABELS, 0.1, 2)
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


@pytest.mark.parametrize("name", METHODS)
def test_losses_reach_every_parameter(name: str) -> None:
    model, _, _ = _linear()
    method = METHODS[name]
    views = {"original": 1, "augmix": 3, "two_copies": 3}.get(method.views, 2)
    losses = method.loss(model, _views(views), LABELS, Settings(DISTANCES[method.distance]))
    total = losses.cross_entropy + (losses.pairing if losses.pairing is not None else 0)
    gradients = torch.autograd.grad(total, list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert method.views in VIEWS
