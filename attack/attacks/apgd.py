"""The attacks of `pyautoattack`, the authors' own code (Croce & Hein 2020), and runs of its APGD.

In them an image leaves the batch once it is misclassified. That changes no verdict, as APGD treats every image by
itself, and saves most of the time on models that are not robust.
"""

import importlib
import logging
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from attack.attacks.attempt import Norm
from attack.attacks.victim import Victim
from stylize.errors import InputError

_FEWEST_CLASSES = 4  # that the targeted DLR loss is defined for


def standard_attacks(victim: Victim, images: Tensor, norm: Norm, epsilon: float, seed: int) -> Any:
    """Return the library's standard version, with its constants, and no more targets than there are wrong classes."""
    try:
        library = importlib.import_module("pyautoattack")
    except ModuleNotFoundError:
        raise InputError("AutoAttack needs an extra: pip install 'stylized-pairing[attacks]'.") from None
    standard = library.AutoAttack(
        victim, norm={"l2": "L2", "linf": "Linf"}[norm], eps=epsilon, seed=seed, device=images.device
    )
    # Zero gradients are counted by checks of ours; without a logger the library warns of them for each batch.
    standard.apgd.logger = standard.apgd_targeted.logger = logging.Logger("silent", logging.CRITICAL + 1)
    with torch.no_grad():
        classes = victim(images[:1]).shape[1]
    if classes < _FEWEST_CLASSES:
        raise InputError(f"AutoAttack needs {_FEWEST_CLASSES} classes and the model has {classes}: attack with PGD.")
    standard.apgd_targeted.n_target_classes = standard.fab.n_target_classes = min(9, classes - 1)
    return standard


class _AllWrong(Exception):  # noqa: N818 - the news is good
    """No image is left to attack."""


class _Sieve(nn.Module):
    """A model for one run of APGD: an image's logits stand still, and cost nothing, once it is misclassified."""

    def __init__(self, victim: Victim, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.victim = victim
        self.labels = labels
        self.images = images.clone()
        self.wrong = torch.zeros_like(labels, dtype=torch.bool)
        self.logits = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        left = (~self.wrong).nonzero()[:, 0]
        if not len(left):
            raise _AllWrong
        new = self.victim(images[left])
        logits = self.logits.index_copy(0, left, new) if len(self.logits) else new
        self.logits = logits.detach()
        self.wrong = self.logits.argmax(1) != self.labels
        fooled = left[self.wrong[left]]
        self.images[fooled] = images.detach()[fooled]
        return logits


def climb(attack: Any, victim: Victim, images: Tensor, labels: Tensor) -> Tensor:
    """Run APGD once; return each image's first misclassified point, or the image itself where there is none."""
    sieve = _Sieve(victim, images, labels)
    attack.model = sieve
    attack.init_hyperparam(images)
    with suppress(_AllWrong):
        attack.attack_single_run(images, labels)
    return sieve.images


def climb_to_targets(attack: Any, victim: Victim, images: Tensor, labels: Tensor) -> Tensor:
    """Run targeted APGD towards the most likely wrong class, then towards the next ones where it failed."""
    with torch.no_grad():
        order = victim(images).sort(dim=1)[1]
    found = images.clone()
    left = torch.arange(len(images), device=images.device)
    for nth in range(2, attack.n_target_classes + 2):
        if not len(left):
            break
        attack.y_target = order[left, -nth]
        found[left] = climb(attack, victim, images[left], labels[left])
        left = left[~attack.model.wrong]
    return found
