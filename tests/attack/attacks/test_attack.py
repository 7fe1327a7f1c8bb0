import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from attack.attacks import LOSSES, Loss, Norm, attack_loss, project, random_point, steepest
from attack.attacks.pgd import uniform_noise
from stylize.console import InputError
from tests.attack.attacks.models import pictures

NORMS: tuple[Norm, ...] = ("l2", "linf")


def distance(a: Tensor, b: Tensor, norm: Norm) -> NDArray[np.float64]:
    flat = (a.double() - b.double()).flatten(1).numpy()
    return np.array([np.abs(row).max() if norm == "linf" else np.sqrt((row**2).sum()) for row in flat])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 3.0])
def test_projection_is_in_ball_and_range_and_leaves_what_is_inside(norm: Norm, epsilon: float) -> None:
    images, far = pictures(6), pictures(6, low=-2, high=3, seed=2)

    near = project(far, images, epsilon, norm)

    assert near.min() >= 0
    assert near.max() <= 1
    assert distance(near, images, norm).max() <= epsilon + 1e-6
    torch.testing.assert_close(project(near, images, epsilon, norm), near)


def test_projection_without_clipping_is_the_nearest_point() -> None:
    images = pictures(4, low=0.4, high=0.6)
    delta = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))

    l2 = project(images + delta, images, 0.25, "l2") - images
    linf = project(images + delta, images, 0.25, "linf") - images

    for row in range(4):
        moved = delta[row].double().numpy()
        np.testing.assert_allclose(l2[row], moved * 0.25 / np.linalg.norm(moved), atol=1e-6)
        np.testing.assert_allclose(linf[row], np.clip(moved, -0.25, 0.25), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_no_random_step_of_its_size_climbs_higher_than_the_steepest(norm: Norm) -> None:
    gradient = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    best = (steepest(gradient, norm) * gradient).sum()
    others = torch.randn(500, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    sizes = others.flatten(1).norm(dim=1) if norm == "l2" else others.flatten(1).abs().amax(1)
    assert best > (others / sizes[:, None, None, None] * gradient).flatten(1).sum(1).max()


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    gradient = torch.full((2, 3, 8, 8), float("nan"))
    gradient[1] = 0.0
    for norm in NORMS:
        assert not steepest(gradient, norm).any()


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball(norm: Norm) -> None:
    images = torch.full((4000, 1, 2, 1), 0.5)

    points = random_point(images, 0.3, norm, torch.Generator().manual_seed(6))

    radius = distance(points, images, norm) / 0.3
    assert radius.max() <= 1 + 1e-6
    # In two dimensions the share of a ball's area within half of its radius is a quarter.
    assert np.mean(radius < 0.5) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose((points - images).mean(0), 0, atol=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_noise_depends_on_its_seed_alone(norm: Norm) -> None:
    images = pictures(5)
    first = uniform_noise(images, epsilon=0.2, norm=norm, seed=0)
    torch.rand(7)  # what else draws numbers has no say
    assert torch.equal(first, uniform_noise(images, epsilon=0.2, norm=norm, seed=0))
    assert not torch.equal(first, uniform_noise(images, epsilon=0.2, norm=norm, seed=1))
    assert first.min() >= 0
    assert first.max() <= 1
    assert distance(first, images, norm).min() > 0.1
    assert distance(first, images, norm).max() <= 0.2 + 1e-6


def test_noise_out_of_range() -> None:
    for change, message in (({"epsilon": 0.0}, "Epsilon is 0.0"), ({"norm": "l1"}, "'l1'")):
        with pytest.raises(InputError, match=message):
            uniform_noise(pictures(1), **{"epsilon": 0.1, "norm": "l2", "seed": 0, **change})  # type: ignore[arg-type]


def slow_loss(loss: str, logits: NDArray[np.float64], label: int) -> float:
    if loss == "ce":
        return float(-log_softmax(logits)[label])
    best_other = max(value for i, value in enumerate(logits) if i != label)
    margin = best_other - logits[label]
    if loss == "margin":
        return float(margin)
    ordered = sorted(logits, reverse=True)
    return float(margin / (ordered[0] - ordered[2]))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [3, 4, 10])
def test_losses_by_loops(loss: Loss, classes: int) -> None:
    logits = 5 * torch.randn(40, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % classes

    losses = attack_loss(loss, logits, labels)

    slow = [slow_loss(loss, row, int(label)) for row, label in zip(logits.double().numpy(), labels, strict=True)]
    np.testing.assert_allclose(losses, slow, rtol=1e-5, atol=1e-6)
    if loss != "ce":
        assert torch.equal(losses > 0, logits.argmax(1) != labels)


def test_dlr_knows_neither_shift_nor_scale() -> None:
    logits = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 6
    torch.testing.assert_close(attack_loss("dlr", 100 * logits + 7, labels), attack_loss("dlr", logits, labels))


def test_equal_logits_have_finite_losses_and_gradients() -> None:
    logits = torch.ones(2, 4, requires_grad=True)
    for loss in LOSSES:
        losses = attack_loss(loss, logits, torch.tensor([0, 1]))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert losses.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "classes", "message"), [("dlr", 2, "needs 3 classes"), ("hinge", 5, "one of ce, dlr")]
)
def test_what_has_no_loss(loss: Loss, classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack_loss(loss, torch.zeros(1, classes), torch.tensor([0]))
