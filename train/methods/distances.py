"""Distances between the logits of an image and of its partners: scalars of (B, V, classes), the original at V = 0."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F

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


DISTANCES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mse": squared_difference,
    "kl": kullback_leibler,
    "jsd": jensen_shannon,
    "cosine": cosine,
}
