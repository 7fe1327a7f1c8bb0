"""APGD and the whole AutoAttack, by the library of its authors; Square, the last of its attacks, by code of ours."""

import hashlib
import importlib
import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from attack.attacks import (
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
    per_image,
    size,
)
from stylize.console import InputError

Part = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]
STANDARD: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
RAND: tuple[Part, ...] = ("apgd-ce", "apgd-dlr")
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
        self.counted, self.labels, self.images = counted, labels, images.clone()
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


Nearest = dict[bytes, Tensor]  # by the SHA-256 of an image's pixels, the nearest error that FAB found


def _approach_targets(
    fab: Any, counted: CountedModel, norm: Norm, nearest: Nearest, images: Tensor, labels: Tensor
) -> Tensor:
    """Run FAB towards the most likely wrong class, then towards the next ones where no error is within the radius.

    FAB minimises the norm whatever the radius, without random numbers. So what all targets found for an image is kept
    in `nearest`, and serves other radii.
    """
    keys = [hashlib.sha256(image.cpu().numpy().tobytes()).digest() for image in images]
    found = torch.stack([nearest.get(key, image) for key, image in zip(keys, images, strict=True)])
    left = torch.tensor([row for row, key in enumerate(keys) if key not in nearest], device=images.device)
    distance = torch.full(labels.shape, math.inf, device=images.device)
    for nth in range(2, fab.n_target_classes + 2):
        if not len(left):
            break
        fab.target_class = nth
        with torch.no_grad():
            reached = fab.attack_single_run(images[left], labels[left], is_targeted=True)
        moved = size(reached - images[left], norm)
        nearer = counted.scores(reached, labels[left], "ce")[1] & (moved < distance[left])
        found[left[nearer]], distance[left[nearer]] = reached[nearer], moved[nearer]
        left = left[distance[left] > fab.eps]
    nearest.update((keys[row], found[row]) for row in left.tolist())
    within = size(found - images, norm) <= fab.eps
    return torch.where(per_image(within), found, images)


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    parts: Sequence[Part] = STANDARD,
    nearest: Nearest | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Attack with the standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, and Square with 5,000 queries.

    Each attacks the images that those before it left classified correctly; the targeted ones try the 9 most likely
    wrong classes, or all where there are fewer. An image comes back unchanged where it is wrong already, or where all
    fail. Random numbers are drawn per batch: `batch_size` and the images beside an image are part of the seed.

    `parts` names the attacks to run, in their order; `RAND` is the library's version for random models, to be given a
    model that averages over draws. A dictionary `nearest` lets calls with one model and norm, and other radii, share
    what FAB finds, which knows no radius. The other arguments are those of `pgd`, and the norm `l1` beside; the global
    random numbers are left as they were.

    Raises:
        InputError: the extra `attacks` is not installed, the model has fewer than 4 classes, a module is in training
            mode, or an argument is out of range.
    """
    check_images(model, images, labels)
    check_numbers(norm, norms=NORM_NAMES, epsilon=epsilon, batch_size=batch_size)
    images = images.contiguous()  # the library takes views
    found, wrong = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    # The library seeds torch's global random numbers, which come back as they were.
    with counting(model) as counted, torch.random.fork_rng([images.device] if images.is_cuda else []):
        attacks: Sequence[_Attack] = ()
        if len(images):
            standard = _standard(counted, images, norm, epsilon, seed)
            known = {} if nearest is None else nearest
            attacks = (_stay, *(_part(name, standard, counted, norm, known) for name in parts))
        for attack in attacks:
            for rows in batches(~wrong, batch_size):
                torch.manual_seed(seed)
                adversarial = attack(images[rows], labels[rows])
                fooled = counted.scores(adversarial, labels[rows], "ce")[1]
                wrong[rows], found[rows[fooled]] = fooled, adversarial[fooled]
    return Attacked(found, counted.forwards, counted.backwards)


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
    part: Part = "apgd-ce" if loss == "ce" else "apgd-dlr"
    return autoattack(model, images, labels, epsilon=epsilon, norm=norm, parts=[part], seed=seed, batch_size=batch_size)


_Attack = Callable[[Tensor, Tensor], Tensor]


def _stay(images: Tensor, _labels: Tensor) -> Tensor:
    return images


def _part(name: Part, standard: Any, counted: CountedModel, norm: Norm, nearest: Nearest) -> _Attack:
    """Return one of the library's attacks as a function of images and labels."""
    attacks: Mapping[Part, _Attack] = {
        "apgd-ce": partial(_climb, standard.apgd, counted, "ce"),
        "apgd-dlr": partial(_climb, standard.apgd, counted, "dlr"),
        "apgd-t": partial(_climb_to_targets, standard.apgd_targeted, counted),
        "fab-t": partial(_approach_targets, standard.fab, counted, norm, nearest),
        "square": standard.square.perturb,
    }
    return attacks[name]


FIRST_SHARE = 0.8  # of the picture that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, in ten thousandths of all


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    queries: int = 1000,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Set one square after another, in each channel, to the image ± epsilon, and keep what makes the margin larger.

    The search starts with vertical stripes of ±epsilon. The squares shrink by the paper's schedule, scaled to the
    number of queries. An image is left alone once it is misclassified; returned is, for each image, the best point
    found, or the image itself where it is wrong already.

    `queries` points are tried for an image, the stripes included; the other arguments, and errors, are those of `pgd`.
    """
    check_images(model, images, labels)
    check_numbers(epsilon=epsilon, queries=queries, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    best, wrong = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    margins = torch.full(labels.shape, -math.inf, device=images.device)
    with counting(model) as counted:
        for rows in batches(~wrong, batch_size):
            wrong[rows] = counted.scores(images[rows], labels[rows], "margin")[1]
        for query in range(queries):
            inside, signs = _stripes(images, generator) if query == 0 else _squares(images, query / queries, generator)
            for rows in batches(~wrong, batch_size):
                moved = (images[rows] + epsilon * signs[rows]).clamp(0, 1)
                tried = torch.where(inside[rows], moved, best[rows])
                reached, fooled = counted.scores(tried, labels[rows], "margin")
                better = reached > margins[rows]
                taken = rows[better]
                best[taken], margins[taken], wrong[taken] = tried[better], reached[better], fooled[better]
    return Attacked(best, counted.forwards, counted.backwards)


def _stripes(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return the whole picture (N, 1, H, W) and a random sign for each of its columns and channels (N, C, 1, W)."""
    count, channels, height, width = images.shape
    signs = torch.randint(0, 2, (count, channels, 1, width), generator=generator) * 2 - 1
    return torch.ones(count, 1, height, width, dtype=torch.bool).to(images.device), signs.to(images.device)


def _squares(images: Tensor, progress: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return where each image's random square is (N, 1, H, W), and a random sign for each of its channels (N, C, 1, 1).

    `progress` is the share of the queries that is spent.
    """
    count, channels, height, width = images.shape
    share = FIRST_SHARE / 2 ** bisect_left(HALVINGS, progress * 10_000)
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    top = torch.randint(0, height - side + 1, (count, 1, 1, 1), generator=generator)
    left = torch.randint(0, width - side + 1, (count, 1, 1, 1), generator=generator)
    signs = torch.randint(0, 2, (count, channels, 1, 1), generator=generator) * 2 - 1
    row, column = torch.arange(height)[:, None], torch.arange(width)
    inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    return inside.to(images.device), signs.to(images.device)
