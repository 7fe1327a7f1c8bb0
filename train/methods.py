"""Training methods: each is a small function from a batch to its losses; `METHODS` names them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from train.batch_norm import statistics_untouched, views_in_batch

SMALLEST_PROBABILITY = 1e-7  # below it a logarithm is cut, as in the published code of AugMix


def squared_difference(logits: Tensor) -> Tensor:
    """Return the mean of (original − partner)² over batch, partners and classes (Guan et al. 2022, Eq. 6)."""
    return F.mse_loss(logits[:, :1].expand_as(logits[:, 1:]), logits[:, 1:])


def kullback_leibler(logits: Tensor) -> Tensor:
    """Return the mean of KL(original ‖ partner) over batch and partners, in nats; gradients reach both."""
    logarithms = logits.log_softmax(-1)
    original, partners = logarithms[:, :1], logarithms[:, 1:]
    return (original.exp() * (original - partners)).sum(-1).mean()


def jensen_shannon(logits: Tensor) -> Tensor:
    """Return the mean over the batch of (1/V) Σ KL(p_v ‖ M), where M is the mean of all V (Hendrycks et al. 2020)."""
    logarithms = logits.log_softmax(-1)
    probabilities = logarithms.exp()
    mixture = probabilities.mean(1, keepdim=True).clamp(SMALLEST_PROBABILITY, 1).log()
    return (probabilities * (logarithms - mixture)).sum(-1).mean()


def cosine(logits: Tensor) -> Tensor:
    """Return the mean of 1 − cos(original, partner) over batch and partners."""
    return (1 - F.cosine_similarity(logits[:, :1], logits[:, 1:], dim=-1)).mean()


Distance = Callable[[Tensor], Tensor]  # of logits (B, V, classes)
DISTANCES: Mapping[str, Distance] = {
    "mse": squared_difference,
    "kl": kullback_leibler,
    "jsd": jensen_shannon,
    "cosine": cosine,
}


@dataclass(frozen=True)
class Settings:
    """What methods can be told: the distance of a pair's logits, and how strong the attacks in training are.

    `epsilon` is the greatest change of a pixel in [0, 1], found in `attack_steps` steps.
    """

    distance: Distance = DISTANCES["mse"]
    epsilon: float = 4 / 255
    attack_steps: int = 7


@dataclass(frozen=True)
class Losses:
    """The two parts of a loss, scalars: the cross-entropy, and the pairing loss that λ multiplies, if there is one."""

    cross_entropy: Tensor
    pairing: Tensor | None = None


# Takes the model, pixels (B, V, 3, H, W) in [0, 1] with the original at V = 0, labels (B,) or their
# probabilities (B, classes), and settings.
Loss = Callable[[nn.Module, Tensor, Tensor, Settings], Losses]


@dataclass(frozen=True)
class Method:
    """A loss, which views of a sample it is given (`VIEWS`), and its λ where none is given."""

    loss: Loss
    views: str
    pairing_weight: float = 1.0
    distance: str = "mse"
    epsilon: float = 4 / 255


def normal(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the cross-entropy of the originals."""
    return Losses(F.cross_entropy(model(views[:, 0]).float(), labels))


def stylized(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the cross-entropy over originals and copies: Eq. 6 of Guan et al. (2022) with λ = 0."""
    return Losses(pairing(model, views, labels, settings).cross_entropy)


def pairing(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return Eq. 6 of Guan et al. (2022): cross-entropy over originals and partners, and the distance of their logits.

    One joint forward pass, so BatchNorm sees both kinds of image in one batch; the mean is over batch and classes.
    """
    logits = joint_logits(model, views)
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(views.shape[1], 0))
    return Losses(cross_entropy, settings.distance(logits))


def consistency(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the cross-entropy of the originals alone, and the distance of all views (Hendrycks et al. 2020, Eq. 1)."""
    logits = joint_logits(model, views)
    return Losses(F.cross_entropy(logits[:, 0], labels), settings.distance(logits))


def clean_logit_pairing(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the originals' cross-entropy and the distance between neighbours (CLP, Kannan et al. 2018; no noise).

    Neighbours in a batch that is in random order: images 0 and 1, 2 and 3, and so on; an odd last one has no partner.
    """
    logits = model(views[:, 0]).float()
    pairs = logits[: len(logits) // 2 * 2].view(-1, 2, logits.shape[1])
    return Losses(F.cross_entropy(logits, labels), settings.distance(pairs))


def joint_logits(model: nn.Module, views: Tensor) -> Tensor:
    """Return the logits (B, V, classes), float32, of images (B, V, 3, H, W) in one forward pass."""
    with views_in_batch(model, views.shape[1]):
        logits: Tensor = model(views.flatten(0, 1)).float()
    return logits.view(*views.shape[:2], -1)


def least_likely(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the mean of the cross-entropies of the originals and of their adversaries (Kurakin et al. 2017).

    Guan et al. (2022), Section 4.2.  One joint forward pass over both, as adversaries join the training set.
    """
    adversaries = least_likely_adversaries(model, views[:, 0], settings.epsilon)
    return stylized(model, torch.stack([views[:, 0], adversaries], 1), labels, settings)


def projected(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the cross-entropy of PGD's adversaries alone (Madry et al. 2018, Eq. 2.1)."""
    adversaries = pgd_adversaries(model, views[:, 0], labels, settings.epsilon, settings.attack_steps)
    return Losses(F.cross_entropy(model(adversaries).float(), labels))


def logit_pairing(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return adversarial logit pairing (Kannan et al. 2018, Eq. 1, ALP).

    The cross-entropy over originals and PGD's adversaries in one batch, and the distance of their logits.
    """
    adversaries = pgd_adversaries(model, views[:, 0], labels, settings.epsilon, settings.attack_steps)
    return pairing(model, torch.stack([views[:, 0], adversaries], 1), labels, settings)


def noisy_fgsm(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return the cross-entropy of N-FGSM's adversaries alone (de Jorge et al. 2022)."""
    adversaries = noisy_fgsm_adversaries(model, views[:, 0], labels, settings.epsilon)
    return Losses(F.cross_entropy(model(adversaries).float(), labels))


def noisy_fgsm_pairing(model: nn.Module, views: Tensor, labels: Tensor, settings: Settings) -> Losses:
    """Return Eq. 6 of Guan et al. (2022) with N-FGSM's adversaries in the places of the originals."""
    adversaries = noisy_fgsm_adversaries(model, views[:, 0], labels, settings.epsilon)
    return pairing(model, torch.cat([adversaries[:, None], views[:, 1:]], 1), labels, settings)


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


def noisy_fgsm_adversaries(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] after one step of ε along the gradient's sign, from uniform noise of 2 ε.

    N-FGSM (de Jorge et al. 2022, Algorithm 1): the noise augments, and nothing is projected onto the ball of ε.
    """
    noisy = (images + random_start(images, 2 * epsilon)).clamp(0, 1)
    return (noisy + epsilon * _gradient(model, noisy, labels).sign()).clamp(0, 1)


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


METHODS: Mapping[str, Method] = {
    "normal": Method(normal, "original"),
    "stylized": Method(stylized, "copy"),
    "pairing": Method(pairing, "copy"),
    "adversarial": Method(least_likely, "original", epsilon=0.1),  # Guan et al. (2022), Section 4.2
    "pgd": Method(projected, "original"),
    "nfgsm": Method(noisy_fgsm, "original"),
    "nfgsm_pairing": Method(noisy_fgsm_pairing, "copy"),
    "alp": Method(logit_pairing, "original", pairing_weight=0.5),  # Kannan et al. (2018), Section 4.3
    "clp": Method(clean_logit_pairing, "original", pairing_weight=0.5),
    # Controls: pairing with something else in the copy's place.
    "wrong_partner": Method(pairing, "copy_of_class"),
    "jitter": Method(pairing, "jitter"),
    "augmix": Method(consistency, "augmix", pairing_weight=12.0, distance="jsd"),
    "jsd": Method(consistency, "two_copies", pairing_weight=12.0, distance="jsd"),
}
