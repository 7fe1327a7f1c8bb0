from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack.attacks import Loss, Norm, attack_loss
from attack.attacks.pgd import pgd, single_step, unbounded
from stylize.console import InputError
from tests.attack.attacks.models import conv_model, linear_model, losses_of, pictures, predicted

NORMS: tuple[Norm, ...] = ("l2", "linf")
SETTINGS: dict[str, Any] = {
    "norm": "linf", "epsilon": 0.03, "steps": 12, "step_size": 0.008, "loss": "ce", "restarts": 1, "seed": 0,
    "batch_size": 4,
}  # fmt: skip


def slow_pgd(
    model: nn.Module, image: Tensor, label: int, norm: Norm, epsilon: float, steps: int, step_size: float | None,
    loss: Loss, keep_going: bool,
) -> tuple[bool, Tensor, list[float]]:  # fmt: skip
    """One image in float64: wrong or not, the point that counts, and every loss on the way."""
    model = model.double()
    x0 = image.double().numpy()
    x, losses, best = x0.copy(), [], (False, -np.inf, x0)
    for step in range(steps + 1):
        pixels = torch.tensor(x[None], requires_grad=True)
        logits = model(pixels)
        value = attack_loss(loss, logits, torch.tensor([label]))
        (gradient,) = torch.autograd.grad(value.sum(), pixels)
        g = gradient[0].numpy()
        losses.append(value.item())
        best = max(best, (int(logits.argmax()) != label, losses[-1], x.copy()), key=lambda found: found[:2])
        if best[0] and not keep_going:
            break
        length = step_size or epsilon * (1 + np.cos(np.pi * step / steps))
        x = x + length * (np.sign(g) if norm == "linf" else g / np.sqrt((g**2).sum()))
        if norm == "linf":
            x = np.minimum(np.maximum(x, x0 - epsilon), x0 + epsilon)
        elif (far := np.sqrt(((x - x0) ** 2).sum())) > epsilon:
            x = x0 + (x - x0) * epsilon / far
        x = np.clip(x, 0, 1)
    return bool(best[0]), torch.tensor(best[2]), losses


# DLR is flat where the true class is third or lower, and rounding alone then chooses the way: compared up to there.
@pytest.mark.parametrize(
    ("loss", "keep_going", "step"),
    [("ce", True, 0.25), ("margin", True, None), ("ce", False, 0.25), ("dlr", False, 0.25)],
)
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.03), ("l2", 0.35)])
def test_equals_a_slow_loop(norm: Norm, epsilon: float, loss: Loss, keep_going: bool, step: float | None) -> None:
    images = pictures(8)
    labels = predicted(conv_model(), images)
    labels[3] = (labels[3] + 1) % 5  # wrong from the start
    options: dict[str, Any] = {
        "norm": norm, "epsilon": epsilon, "steps": 12, "step_size": step and step * epsilon, "loss": loss,
        "keep_going": keep_going,
    }  # fmt: skip

    found = pgd(conv_model(), images, labels, **options, restarts=1, seed=0, batch_size=3)

    wrong = predicted(conv_model(), found.images) != labels
    assert 1 < wrong.sum() < 8, "the test needs both kinds"
    assert found.last_losses is not None
    forwards = backwards = 0
    for i in range(8):
        slow_wrong, slow_image, slow_losses = slow_pgd(conv_model(), images[i], int(labels[i]), **options)
        assert bool(wrong[i]) == slow_wrong
        np.testing.assert_allclose(found.images[i], slow_image, atol=2e-6)
        held = slow_losses + [slow_losses[-1]] * (13 - len(slow_losses))
        np.testing.assert_allclose(found.last_losses[i], held[-10:], atol=2e-4)
        forwards, backwards = forwards + len(slow_losses), backwards + min(len(slow_losses), 12)
    assert (found.forwards, found.backwards) == (forwards, backwards)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_optimum(norm: Norm) -> None:
    """On two classes of a linear model the best gain is known: epsilon times the dual norm of the rows' difference."""
    model, images = linear_model(2), pictures(10, low=0.3, high=0.7)
    labels, weight = predicted(model, images), next(model.parameters()).detach().double()
    difference = weight[1] - weight[0]
    dual = difference.abs().sum() if norm == "linf" else difference.norm()
    before = losses_of(model, images, labels, "margin")

    settings = {**SETTINGS, "norm": norm, "epsilon": 0.1, "step_size": 0.03, "loss": "margin"}
    found = pgd(model, images, labels, **settings, keep_going=True)

    gain = losses_of(model, found.images, labels, "margin") - before
    torch.testing.assert_close(gain, torch.full_like(gain, float(0.1 * dual)), rtol=1e-4, atol=1e-4)


def test_restarts_start_elsewhere_and_never_harm() -> None:
    images = pictures(12)
    labels = predicted(conv_model(), images)
    settings = {**SETTINGS, "epsilon": 0.02, "keep_going": True}

    results = [pgd(conv_model(), images, labels, **{**settings, "restarts": n}) for n in (1, 2, 6)]

    wrong = [predicted(conv_model(), found.images) != labels for found in results]
    losses = [losses_of(conv_model(), found.images, labels) for found in results]
    for fewer, more in ((0, 1), (1, 2)):
        assert (wrong[more] >= wrong[fewer]).all()
        assert (losses[more] >= losses[fewer] - 1e-6).all()
    assert (losses[2] > losses[0]).any()
    assert results[2].forwards == 6 * results[0].forwards


def test_images_left_alone_once_wrong_change_no_verdict() -> None:
    images = pictures(12)
    labels = predicted(conv_model(), images)
    labels[5] = (labels[5] + 1) % 5

    short = pgd(conv_model(), images, labels, **{**SETTINGS, "restarts": 3})
    full = pgd(conv_model(), images, labels, **{**SETTINGS, "restarts": 3}, keep_going=True)

    wrong = predicted(conv_model(), short.images) != labels
    assert 1 < wrong.sum() < 12
    assert torch.equal(wrong, predicted(conv_model(), full.images) != labels)
    assert torch.equal(short.images[5], images[5])  # wrong as it is: nothing to do
    torch.testing.assert_close(short.images[~wrong], full.images[~wrong])
    assert short.forwards < full.forwards == 3 * 13 * 12
    assert short.last_losses is not None
    assert short.last_losses.shape == (12, 10)
    assert (short.last_losses[5] == short.last_losses[5, 0]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.01, 0.2, 1.0])
def test_images_stay_in_ball_and_range(norm: Norm, epsilon: float) -> None:
    images = pictures(6)
    images[0, 0], images[1, 1] = 0.0, 1.0
    labels = predicted(conv_model(), images)

    settings = {**SETTINGS, "norm": norm, "epsilon": epsilon, "step_size": epsilon, "restarts": 2}
    found = pgd(conv_model(), images, labels, **settings, keep_going=True)

    moved = (found.images.double() - images.double()).flatten(1)
    assert (moved.norm(dim=1) if norm == "l2" else moved.abs().amax(1)).max() <= epsilon + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_seed_alone_decides_and_batches_round_only() -> None:
    images = pictures(9)
    labels = predicted(conv_model(), images)
    settings = {**SETTINGS, "restarts": 2, "keep_going": True}
    state = torch.random.get_rng_state()

    first = pgd(conv_model(), images, labels, **settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = pgd(conv_model(), images, labels, **settings)
    other = pgd(conv_model(), images, labels, **{**settings, "seed": 1})
    whole = pgd(conv_model(), images, labels, **{**settings, "batch_size": 100})

    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    torch.testing.assert_close(whole.images, first.images, atol=1e-5, rtol=0)


def test_single_step_is_fgsm() -> None:
    images = pictures(5)
    labels = predicted(conv_model(), images)
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(conv_model()(pixels), labels), pixels)
    expected = (images + 0.01 * gradient.sign()).clamp(0, 1)

    found = single_step(conv_model(), images, labels, norm="linf", epsilon=0.01, batch_size=5)

    risen = losses_of(conv_model(), expected, labels) > losses_of(conv_model(), images, labels)
    assert risen.any()
    torch.testing.assert_close(found.images[risen], expected[risen])
    torch.testing.assert_close(found.images[~risen], images[~risen])


def test_unbounded_breaks_every_image() -> None:
    images = pictures(20)
    labels = predicted(conv_model(), images)
    found = unbounded(conv_model(), images, labels, batch_size=8)
    assert (predicted(conv_model(), found.images) != labels).all()
    assert found.forwards < 20 * 51


def test_unbounded_fails_where_gradients_are_zero() -> None:
    class Quantised(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = conv_model()((images * 255).round() / 255)
            return logits

    images = pictures(4)
    labels = predicted(conv_model(), images)
    found = unbounded(Quantised().eval(), images, labels, batch_size=8)
    assert torch.equal(found.images, images)


def test_parameters_are_left_as_they_were() -> None:
    model, images = conv_model(), pictures(3)
    first = next(model.parameters()).requires_grad_(False)
    pgd(model, images, predicted(model, images), **SETTINGS)
    assert not first.requires_grad
    assert all(parameter.requires_grad for parameter in list(model.parameters())[1:])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_images() -> None:
    found = pgd(conv_model(), pictures(0), torch.zeros(0, dtype=torch.int64), **SETTINGS)
    assert found.images.shape == (0, 3, 8, 8)
    assert found.forwards == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l1"}, "'l1'"),
        ({"epsilon": -1.0}, "Epsilon is -1.0"),
        ({"step_size": float("nan")}, "Step size is nan"),
        ({"steps": 0}, "Steps is 0"),
        ({"restarts": 0}, "Restarts is 0"),
        ({"batch_size": 0}, "Batch size is 0"),
        ({"loss": "hinge"}, "'hinge'"),
    ],
)
def test_arguments_out_of_range(change: dict[str, Any], message: str) -> None:
    images = pictures(2)
    with pytest.raises(InputError, match=message):
        pgd(conv_model(), images, predicted(conv_model(), images), **{**SETTINGS, **change})


def test_images_labels_and_models_that_do_not_fit() -> None:
    images, labels = pictures(2), torch.tensor([0, 1])
    for bad_images, bad_labels, message in (
        (images * 255, labels, "scale them"),
        (images * float("nan"), labels, "scale them"),
        (images.double(), labels, "float64"),
        (images, labels[:1], r"give int64 of shape \(2,\)"),
        (images, labels.float(), "float32"),
    ):
        with pytest.raises(InputError, match=message):
            pgd(conv_model(), bad_images, bad_labels, **SETTINGS)
    with pytest.raises(InputError, match="training mode"):
        pgd(conv_model().train(), images, labels, **SETTINGS)
    with pytest.raises(InputError, match="needs 3 classes"):
        pgd(conv_model(2), images, labels, **{**SETTINGS, "loss": "dlr"})


def test_a_radius_is_enough() -> None:
    images = pictures(4)
    labels = predicted(conv_model(), images)
    short = pgd(conv_model(), images, labels, epsilon=0.02)
    full = pgd(conv_model(), images, labels, epsilon=0.02, norm="linf", steps=40, loss="ce",
               restarts=1, seed=0, batch_size=50)  # fmt: skip
    assert torch.equal(short.images, full.images)
