import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax

from attack.attacks.attack import LOSSES, Loss, attack_loss
from stylize.console import InputError


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
