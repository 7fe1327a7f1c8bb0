"""AutoAttack (Croce & Hein 2020), the field's standard: the authors' own attacks, from the package `pyautoattack`.

Their code runs as it is. Only the loop over the ensemble is written anew, to say how far it is, to leave global state
alone, and to leave images alone in APGD too once they are misclassified.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from attack.attacks.apgd import climb, climb_to_targets, standard_attacks
from attack.attacks.attempt import Attacked, Norm
from attack.attacks.balls import check_norm
from attack.attacks.victim import Victim, attacked, batches, check_counts, check_images, check_sizes

Progress = Callable[[str, int, int], None]
_Attack = Callable[[Tensor, Tensor], Tensor]


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Attacked:
    """Attack with the standard ensemble: APGD-CE, targeted APGD-DLR, targeted FAB, and Square with 5,000 queries.

    Each attacks the images that those before it left classified correctly; the targeted ones try the 9 most likely
    wrong classes, or all where there are fewer. An image comes back unchanged where it is wrong already, or where all
    fail. Random numbers are drawn per batch: `batch_size` and the images beside an image are part of the seed.

    Args:
        model: maps float32 [0, 1] pixels (B, C, H, W) to logits (B, classes); every module in eval mode.
        images: float32 in [0, 1], (N, C, H, W).
        labels: true labels, int64 (N,).
        norm: `l2` or `linf`.
        epsilon: radius of the ball, in units of the [0, 1] range.
        seed: of all random numbers; the global ones are left as they were.
        batch_size: images at a time.
        progress: called with an attack's name, the images that it is done with, and how many it has in all.

    Raises:
        InputError: the extra `attacks` is not installed, the model has fewer than 4 classes, a module is in training
            mode, or an argument is out of range.
    """

    def ensemble(victim: Victim) -> Mapping[str, _Attack]:
        standard = standard_attacks(victim, images, norm, epsilon, seed)
        standard.apgd.loss, standard.fab.targeted = "ce", True
        return {
            "apgd-ce": partial(climb, standard.apgd, victim),
            "apgd-t": partial(climb_to_targets, standard.apgd_targeted, victim),
            "fab-t": standard.fab.perturb,
            "square": standard.square.perturb,
        }

    _check(model, images, labels, norm, epsilon, batch_size)
    return _in_turn(ensemble, model, images, labels, seed, batch_size, progress)


def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    epsilon: float,
    loss: Literal["ce", "dlr"],
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Attacked:
    """Attack with AutoAttack's untargeted APGD alone: 100 steps from one random start.

    All else is as in `autoattack`.
    """

    def only(victim: Victim) -> Mapping[str, _Attack]:
        attack = standard_attacks(victim, images, norm, epsilon, seed).apgd
        attack.loss = loss
        return {f"apgd-{loss}": partial(climb, attack, victim)}

    _check(model, images, labels, norm, epsilon, batch_size)
    return _in_turn(only, model, images, labels, seed, batch_size, progress)


def _check(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float, batch_size: int) -> None:
    check_images(model, images, labels)
    check_norm(norm)
    check_sizes(epsilon=epsilon)
    check_counts(batch_size=batch_size)


def _in_turn(
    choose: Callable[[Victim], Mapping[str, _Attack]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seed: int,
    batch_size: int,
    progress: Progress | None,
) -> Attacked:
    """Run attacks one after the other, each on the images that are still classified correctly."""
    images = images.contiguous()  # the library takes views
    found, wrong = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    with attacked(model) as victim, _own_random_numbers(images.device):
        attacks = {"clean": lambda images, labels: images, **choose(victim)} if len(images) else {}
        for name, attack in attacks.items():
            left, done = ~wrong, 0
            for rows in batches(left, batch_size):
                torch.manual_seed(seed)
                adversarial = attack(images[rows], labels[rows])
                fooled = victim.scores(adversarial, labels[rows], "ce")[1]
                wrong[rows], found[rows[fooled]] = fooled, adversarial[fooled]
                done += len(rows)
                if progress:
                    progress(name, done, int(left.sum()))
    return Attacked(found, victim.forwards, victim.backwards)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Give back torch's global random numbers, which the library seeds, as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
