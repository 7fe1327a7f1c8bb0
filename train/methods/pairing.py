"""Methods on originals and partners that the loader gives: stylized copies, or what controls put in their place."""

from torch import Tensor, nn
from torch.nn import functional as F

from train.batch_normalisation import showing
from train.methods.method import Losses, Settings


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
    with showing(model, views.shape[1]):
        logits: Tensor = model(views.flatten(0, 1)).float()
    return logits.view(*views.shape[:2], -1)
