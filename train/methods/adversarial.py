"""Methods on adversaries that are made while training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from train.batch_normalisation import statistics_untouched
from train.methods.method import Losses, Settings
from train.methods.pairing import joint_logits


def least_likely(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the mean of the cross-entropies of the originals and of their adversaries (Kurakin et al. 2017).

    Guan et al. (2022), Section 4.2.  One joint forward pass over both, as adversaries join the training set.
    """
    images = views[:, 0]
    adversaries = least_likely_adversaries(model, images, settings.epsilon)
    logits = joint_logits(model, torch.stack([images, adversaries], 1))
    return Losses(F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(2, 0)))


def projected(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the cross-entropy of PGD's adversaries alone (Madry et al. 2018, Eq. 2.1)."""
    adversaries = pgd_adversaries(model, views[:, 0], labels, settings.epsilon, settings.attack_steps)
    return Losses(F.cross_entropy(model(adversaries).float(), labels))


def logit_pairing(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return adversarial logit pairing (Kannan et al. 2018, Eq. 1, ALP).

    The cross-entropy over originals and PGD's adversaries in one batch, and the distance of their logits.
    """
    images = views[:, 0]
    adversaries = pgd_adversaries(model, images, labels, settings.epsilon, settings.attack_steps)
    logits = joint_logits(model, torch.stack([images, adversaries], 1))
    return Losses(F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(2, 0)), settings.distance(logits))


def least_likely_adversaries(model: nn.Module, images: Tensor, epsilon: float) -> Tensor:
    """Return clip(x - ε · sign(∇ₓ CE(model(x), least likely class)), 0, 1) for images (B, 3, H, W) in [0, 1]."""
    return (images - epsilon * _gradient(model, images, None).sign()).clamp(0, 1)


def pgd_adversaries(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] within L∞ distance ε that raise the cross-entropy (Madry et al. 2018).

    Steps of 2.5 · ε / steps along the gradient's sign, from a uniformly random point of the ball.
    """
    step_size = 2.5 * epsilon / steps
    lowest, highest = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    adversaries = images + random_start(images, epsilon)
    for _ in range(steps):
        adversaries = adversaries.clamp(lowest, highest)
        adversaries = adversaries + step_size * _gradient(model, adversaries, labels).sign()
    return adversaries.clamp(lowest, highest)


def random_start(images: Tensor, epsilon: float) -> Tensor:
    """Return uniform noise in [-ε, ε] of the images' shape."""
    return torch.empty_like(images).uniform_(-epsilon, epsilon)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    """Return the gradient by the images of the cross-entropy with labels, by default the least likely classes.

    The model keeps its mode: in training, BatchNorm normalises by the batch, so the adversary is made against the very
    function that is trained (running statistics lag behind it).  This extra pass does not count in those statistics.
    """
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    images = images.detach().requires_grad_()
    with torch.enable_grad(), statistics_untouched(bare):
        logits = bare(images).float()
        targets = logits.argmin(1) if labels is None else labels
        loss = F.cross_entropy(logits, targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient
