"""Training methods: each is one small function from a batch to a loss.  To add one, write it and enter it in METHODS.

A loss takes the model, pixels (B, V, 3, H, W) in [0, 1] with the original at V = 0 and (where the method asks for it)
its stylized copy at V = 1, labels (B,), and λ; it returns a scalar.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.batch_normalisation import statistics_untouched

ADVERSARIAL_EPSILON = 0.1  # Guan et al. (2022), Section 4.2

Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Method:
    """A loss, and whether it looks at stylized copies (if not, they are neither read nor decoded)."""

    loss: Loss
    with_styled: bool


def normal_loss(model: nn.Module, pairs: Tensor, labels: Tensor, pairing_weight: float) -> Tensor:
    """Return the cross-entropy of the originals."""
    return F.cross_entropy(model(pairs[:, 0]).float(), labels)


def pairing_loss(model: nn.Module, pairs: Tensor, labels: Tensor, pairing_weight: float) -> Tensor:
    """Return Eq. 6: cross-entropy over originals and copies + λ · mean squared error between the logits of a pair.

    One joint forward pass, so BatchNorm sees both kinds of image in one batch; the mean is over batch and classes.
    """
    batch, views = pairs.shape[:2]
    logits = model(pairs.flatten(0, 1)).float()  # (2B, classes): original and copy alternate
    cross_entropy = F.cross_entropy(logits, labels.repeat_interleave(views))
    original, styled = logits.view(batch, views, -1).unbind(1)
    return cross_entropy + pairing_weight * F.mse_loss(original, styled)


def stylized_loss(model: nn.Module, pairs: Tensor, labels: Tensor, pairing_weight: float) -> Tensor:
    """Return the cross-entropy over originals and copies: Eq. 6 with λ = 0."""
    return pairing_loss(model, pairs, labels, 0.0)


def adversarial_loss(model: nn.Module, pairs: Tensor, labels: Tensor, pairing_weight: float) -> Tensor:
    """Return the mean of the cross-entropies of the originals and of their adversaries (Kurakin et al. 2017).

    One joint forward pass over both, as adversaries join the training set.
    """
    images = pairs[:, 0]
    adversaries = least_likely_adversaries(model, images, ADVERSARIAL_EPSILON)
    logits = model(torch.cat([images, adversaries])).float()
    return F.cross_entropy(logits, labels.repeat(2))


def least_likely_adversaries(model: nn.Module, images: Tensor, epsilon: float) -> Tensor:
    """Return clip(x - ε · sign(∇ₓ CE(model(x), least likely class)), 0, 1) for images (B, 3, H, W) in [0, 1].

    The model keeps its mode: in training, BatchNorm normalises by the batch, so the adversary is made against the very
    function that is trained (running statistics lag behind it).  This extra pass does not count in those statistics.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad(), statistics_untouched(model):
        logits = model(images).float()
        loss = F.cross_entropy(logits, logits.argmin(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return (images - epsilon * gradient.sign()).clamp(0, 1).detach()


METHODS = {
    "normal": Method(normal_loss, with_styled=False),
    "stylized": Method(stylized_loss, with_styled=True),
    "pairing": Method(pairing_loss, with_styled=True),
    "adversarial": Method(adversarial_loss, with_styled=False),
}
