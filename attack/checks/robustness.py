"""What attacks broke at a radius: the one answer that page, metrics and verdict use."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from attack.attacks import NORM_NAMES, AttackResult, Norm

Robust = tuple[bool, ...]
TOLERANCE = 1e-4  # of a radius: pixels are float32


@dataclass(frozen=True)
class Cell:
    """What attacks left at one radius, of the first n images: those that met every attack counted.

    `robust` (n,) tells which are right as they are and withstood them all.
    """

    norm: Norm
    epsilon: float
    robust: Robust


def worst_case(clean: Sequence[bool], attacks: Iterable[AttackResult], norm: Norm, epsilon: float) -> Robust:
    """Return which of N images are right as they are (`clean`) and withstand all attacks of a norm within a radius.

    Every kind of attack counts; what a minimal-norm attack found counts where it is near enough. An attack with a
    larger radius does not count, even where its image is near: of images that it did not look at it keeps the state
    that others left at that radius. A clean error is an error at every radius, as RobustBench counts it.
    """
    standing = list(clean)
    for attack in (attack for attack in attacks if _counts(attack, norm, epsilon)):
        for index, robust in enumerate(attack.robust):
            if not robust and is_within(attack.distance[index], epsilon):
                standing[index] = False
    return tuple(standing)


def robust_cells(clean: Sequence[bool], attacks: Sequence[AttackResult]) -> tuple[Cell, ...]:
    """Return a cell for every norm and radius at which the images were attacked, radii growing."""
    return tuple(
        Cell(norm, epsilon, worst_case(clean, attacks, norm, epsilon)[: images_met(attacks, norm, epsilon, len(clean))])
        for norm, epsilon in radii(attacks)
    )


def radii(attacks: Sequence[AttackResult]) -> list[tuple[Norm, float]]:
    """Return the norms and radii that attacks had, L∞ first, then L2; noise and attacks without bounds do not count."""
    counted = [attack for attack in attacks if attack.kind not in ("unbounded", "noise", "transfer")]
    found = {(attack.norm, attack.epsilon) for attack in counted if attack.epsilon}
    return sorted(found, key=lambda one: (list(NORM_NAMES).index(one[0]), one[1]))


def images_met(attacks: Iterable[AttackResult], norm: Norm, epsilon: float, images: int) -> int:
    """Return how many of the images, from the first, met every attack that counts at a radius."""
    return min((looked_at(attack) for attack in attacks if _counts(attack, norm, epsilon)), default=images)


def looked_at(attack: AttackResult) -> int:
    """Return how many images, from the first, an attack was for; of the others it keeps what earlier attacks left."""
    return int(attack.settings.get("images", len(attack.robust)))


def is_within(distance: float, epsilon: float) -> bool:
    """Tell whether a distance or radius is no larger than epsilon, up to rounding."""
    return distance <= epsilon * (1 + TOLERANCE)


def _counts(attack: AttackResult, norm: Norm, epsilon: float) -> bool:
    return attack.norm == norm and (attack.epsilon is None or is_within(attack.epsilon, epsilon))


def accuracy(robust: Sequence[bool]) -> float:
    """Return the share of images that are right; 0 of none."""
    return sum(robust) / max(len(robust), 1)


def gain(one: Robust, other: Robust) -> float:
    """Return the accuracy that `one` takes below `other`; 0 where it does not break significantly more."""
    return accuracy(other) - accuracy(one) if breaks_more(one, other) else 0.0


def breaks_more(one: Robust, other: Robust) -> bool:
    """Tell whether `one` breaks significantly more images than `other`: a sign test over the images that differ.

    Wilson's interval of `one`'s share of them lies above one half; up to three images of difference never suffice.
    """
    more = sum(b and not a for a, b in zip(one, other, strict=True))
    less = sum(a and not b for a, b in zip(one, other, strict=True))
    return wilson(more, more + less)[0] > 0.5


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) of a share, in [0, 1]: honest at 0 of n and n of n too.

    Its ends are the p that solve |p̂ - p| = z √(p (1 - p) / n) with p̂ = successes / n and z the normal quantile of
    `confidence` (Wilson, JASA 1927; Brown, Cai and DasGupta, Statistical Science 2001). Of no images at all nothing
    is known: (0, 1). SciPy has it too, and takes half a second to load.

    Raises:
        ValueError: `successes` is not in 0..n, or `confidence` not in (0, 1).
    """
    if not (0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(f"{successes} successes of {n} with confidence {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt((share * (1 - share) + spread / 4) / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high
