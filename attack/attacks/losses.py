"""What an attack makes larger: three losses of logits (B, classes) and true labels (B,), each (B,) and larger if worse.

Every one is computed from logits, never from probabilities: cross-entropy vanishes in float32 where a model is sure of
itself, the other two do not.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stylize.errors import InputError

Loss = Literal["ce", "dlr", "margin"]
LOSSES: tuple[Loss, ...] = ("ce", "dlr", "margin")


def attack_loss(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Return each image's loss (B,).

    `ce` is the cross-entropy of the true label y; `margin` is max over i ≠ y of z_i, minus z_y, and above 0 where the
    image is misclassified; `dlr` is that margin divided by z_π1 - z_π3, the largest minus the third largest logit
    (difference of logits ratio, Croce & Hein 2020, eq. 6), which neither shift nor scale of the logits changes.

    Raises:
        InputError: the loss has no such name, or there are too few classes for it (2 for `margin`, 3 for `dlr`).
    """
    if loss not in LOSSES:
        raise InputError(f"Loss is {loss!r}: give one of {', '.join(LOSSES)}.")
    fewest = {"ce": 1, "margin": 2, "dlr": 3}[loss]
    if logits.shape[1] < fewest:
        raise InputError(f"Loss {loss!r} needs {fewest} classes and the model has {logits.shape[1]}: attack with 'ce'.")
    if loss == "ce":
        return F.cross_entropy(logits, labels, reduction="none")
    margin = _margin(logits, labels)
    if loss == "margin":
        return margin
    largest = logits.topk(3, dim=1).values
    return margin / (largest[:, 0] - largest[:, 2] + 1e-12)  # the published code's guard against equal logits


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    true = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - true[:, 0]
