"""APGD and the whole AutoAttack, by the library of its authors."""

import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attack.attacks.attack import (
    BATCH_SIZE,
    NORM_NAMES,
    Attacked,
    CountedModel,
    Norm,
    batches,
    check_images,
    check_numbers,
    counting,
    misclassified,
)
from stylize.console import InputError

_FEWEST_CLASSES = 4  # that the targeted DLR loss is defined for


def _standard(counted: CountedModel, images: Tensor, norm: Norm, epsilon: float, seed: int) -> Any:
    """Return the library's standard version, with its constants, and no more targets than there are wrong classes."""
    try:
        library = importlib.import_module("pyautoattack")
    except ModuleNotFoundError:
        raise InputError("AutoAttack needs an extra: pip install 'stylized-pairing[attacks]'.") from None
    standard = library.AutoAttack(counted, norm=norm.capitalize(), eps=epsilon, seed=seed, device=images.device)
    # Zero gradients are counted by checks of ours; without a logger the library warns of them for each batch.
    standard.apgd.logger = standard.apgd_targeted.logger = logging.Logger("silent", logging.CRITICAL + 1)
    with torch.no_grad():
        classes = counted(images[:1]).shape[1]
    if classes < _FEWEST_CLASSES:
        raise InputError(f"AutoAttack needs {_FEWEST_CLASSES} classes and the model has {classes}: attack with PGD.")
    standard.apgd_targeted.n_target_classes = standard.fab.n_target_classes = min(9, classes - 1)
    return standard


class _AllWrong(Exception):  # noqa: N818 - the news is good
    """No image is left to attack."""


class _Sieve(nn.Module):
    """A model for one run of APGD: an image's logits stand still, and cost nothing, once it is misclassified."""

    def __init__(self, counted: CountedModel, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.counted = counted
        self.labels = labels
        self.images = images.clone()
        self.wrong = torch.zeros_like(labels, dtype=torch.bool)
        self.logits = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        left = (~self.wrong).nonzero()[:, 0]
        if not len(left):
            raise _AllWrong
        # Gradients pass `index_select` back much faster than an index.
        new = self.counted(images if len(left) == len(images) else images.index_select(0, left))
        logits = self.logits.index_copy(0, left, new) if len(self.logits) else new
        self.logits = logits.detach()
        self.wrong = misclassified(self.logits, self.labels)
        fooled = left[self.wrong[left]]
        self.images[fooled] = images.detach()[fooled]
        return logits


def _climb(attack: Any, counted: CountedModel, loss: str, images: Tensor, labels: Tensor) -> Tensor:
    """Run APGD once; return each image's first misclassified point, or the image itself where there is none."""
    attack.loss = loss
    if attack.norm == "L1":  # in several runs with shrinking radii
        return torch.as_tensor(attack.perturb(images, labels))
    sieve = _Sieve(counted, images, labels)
    attack.model = sieve
    attack.init_hyperparam(images)
    with suppress(_AllWrong):
        attack.attack_single_run(images, labels)
    return sieve.images


def _climb_to_targets(attack: Any, counted: CountedModel, images: Tensor, labels: Tensor) -> Tensor:
    """Run targeted APGD towards the most likely wrong class, then towards the next ones where it failed."""
    if attack.norm == "L1":
        return _climb(attack, counted, "dlr-targeted", images, labels)
    with torch.no_grad():
        order = counted(images).sort(dim=1)[1]
    found = images.clone()
    left = torch.arange(len(images), device=images.device)
    for nth in range(2, attack.n_target_classes + 2):
        if not len(left):
            break
        attack.y_target = order[left, -nth]
        found[left] = _climb(attack, counted, "dlr-targeted", images[left], labels[left])
        left = left[~attack.model.wrong]
    return found


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    version: Literal["standard", "rand"] = "standard",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Attack with the standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, and Square with 5,000 queries.

    The version `rand` for random models has APGD-CE and APGD-DLR alone; give it a model that averages over draws.

    Each attacks the images that those before it left classified correctly; the targeted ones try the 9 most likely
    wrong classes, or all where there are fewer. An image comes back unchanged where it is wrong already, or where all
    fail. Random numbers are drawn per batch: `batch_size` and the images beside an image are part of the seed.

    The arguments are those of `pgd`, and the norm `l1` beside; the global random numbers are left as they were.

    Raises:
        InputError: the extra `attacks` is not installed, the model has fewer than 4 classes, a module is in training
            mode, or an argument is out of range.
    """

    def ensemble(standard: Any, counted: CountedModel) -> Sequence[_Attack]:
        if version == "rand":
            return partial(_climb, standard.apgd, counted, "ce"), partial(_climb, standard.apgd, counted, "dlr")
        standard.fab.targeted = True
        return (
            partial(_climb, standard.apgd, counted, "ce"),
            partial(_climb_to_targets, standard.apgd_targeted, counted),
            standard.fab.perturb,
            standard.square.perturb,
        )

    return _in_turn(ensemble, model, images, labels, norm, epsilon, seed, batch_size)


def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    loss: Literal["ce", "dlr"] = "ce",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Attack with AutoAttack's untargeted APGD alone: 100 steps from one random start.

    All else is as in `autoattack`.
    """

    def only(standard: Any, counted: CountedModel) -> Sequence[_Attack]:
        return (partial(_climb, standard.apgd, counted, loss),)

    return _in_turn(only, model, images, labels, norm, epsilon, seed, batch_size)


_Attack = Callable[[Tensor, Tensor], Tensor]


def _in_turn(
    choose: Callable[[Any, CountedModel], Sequence[_Attack]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: Norm,
    epsilon: float,
    seed: int,
    batch_size: int,
) -> Attacked:
    """Run attacks of the library one after the other, each on the images that are still classified correctly."""
    check_images(model, images, labels)
    check_numbers(norm, norms=NORM_NAMES, epsilon=epsilon, batch_size=batch_size)
    images = images.contiguous()  # the library takes views
    found, wrong = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    # The library seeds torch's global random numbers, which come back as they were.
    with counting(model) as counted, torch.random.fork_rng([images.device] if images.is_cuda else []):
        attacks: Sequence[_Attack] = ()
        if len(images):
            standard = _standard(counted, images, norm, epsilon, seed)
            attacks = (lambda images, _labels: images, *choose(standard, counted))
        for attack in attacks:
            for rows in batches(~wrong, batch_size):
                torch.manual_seed(seed)
                adversarial = attack(images[rows], labels[rows])
                fooled = counted.scores(adversarial, labels[rows], "ce")[1]
                wrong[rows], found[rows[fooled]] = fooled, adversarial[fooled]
    return Attacked(found, counted.forwards, counted.backwards)
