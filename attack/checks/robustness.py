"""What attacks broke at a radius: robust accuracy with its interval, for page, metrics and verdict alike."""

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import NormalDist

from attack.attacks.attack import AttackResult, Norm


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) of a share, in [0, 1]: honest at 0 of n and n of n too.

    Its ends are the p that solve |p̂ - p| = z √(p (1 - p) / n) with p̂ = successes / n and z the normal quantile of
    `confidence` (Wilson, JASA 1927; Brown, Cai and DasGupta, Statistical Science 2001). Of no images at all nothing
    is known: (0, 1).

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


Robust = tuple[bool, ...]
ROUNDING = 1e-4  # of a radius


def within(attacks: Sequence[AttackResult], clean: Sequence[bool], epsilon: float) -> Robust:
    """Return which of N images are right and withstand all attacks whose attacked image lies within epsilon.

    The attacks are of one norm; those with a larger radius do not count, for of images that they did not look at they
    keep what others did at that radius.
    """
    limit = epsilon * (1 + ROUNDING)
    counted = [attack for attack in attacks if attack.epsilon is None or attack.epsilon <= limit]

    def broken(index: int) -> bool:
        return any(not attack.robust[index] and attack.distance[index] <= limit for attack in counted)

    return tuple(right and not broken(index) for index, right in enumerate(clean))


def looked_at(attack: AttackResult) -> int:
    """Return how many images, from the first, an attack looked at; what became of the others is earlier attacks'."""
    return int(attack.settings.get("images", len(attack.robust)))


def breaks_more(one: Robust, other: Robust) -> bool:
    """Tell whether `one` breaks significantly more images than `other`: a sign test over the images that differ.

    Wilson's interval of `one`'s share of them lies above one half; up to three images of difference never suffice.
    """
    more = sum(b and not a for a, b in zip(one, other, strict=True))
    less = sum(a and not b for a, b in zip(one, other, strict=True))
    return wilson(more, more + less)[0] > 0.5


def gain(one: Robust, other: Robust) -> float:
    """Return the accuracy that `one` takes below `other`; 0 where it does not break significantly more."""
    return accuracy(other) - accuracy(one) if breaks_more(one, other) else 0.0


def accuracy(robust: Sequence[bool]) -> float:
    """Return the share of images that are right; 0 of none."""
    return sum(robust) / max(len(robust), 1)


def worst_case(clean: Sequence[bool], attacks: Iterable[AttackResult], norm: Norm, epsilon: float) -> tuple[bool, ...]:
    """Return which of the N images are classified correctly as they are and withstand every attack within `epsilon`.

    Attempts of `norm` with no larger radius count, whatever their kind, and so does what a minimal-norm attack found
    at a distance of at most `epsilon`. A clean error is an error at every radius, as RobustBench counts it.
    """
    standing = list(clean)
    for attack in attacks:
        if attack.norm == norm:
            standing = [left and survived for left, survived in zip(standing, _survived(attack, epsilon), strict=True)]
    return tuple(standing)


def _survived(attack: AttackResult, epsilon: float) -> tuple[bool, ...]:
    if attack.epsilon is None:
        return tuple(distance > epsilon for distance in attack.distance)
    return attack.robust if attack.epsilon <= epsilon else (True,) * len(attack.robust)
