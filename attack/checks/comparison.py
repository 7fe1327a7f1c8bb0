"""Which images withstand attacks, and whether one attack breaks more of them than another, beyond chance."""

from collections.abc import Sequence

from attack.attacks.attempt import Attempt
from attack.checks.intervals import wilson

Robust = tuple[bool, ...]
ROUNDING = 1e-4  # of a radius


def within(attempts: Sequence[Attempt], clean: Sequence[bool], epsilon: float) -> Robust:
    """Return which of N images are right and withstand all attempts whose attacked image lies within epsilon.

    The attempts are of one norm; those with a larger radius do not count, for of images that they did not look at they
    keep what others did at that radius.
    """
    limit = epsilon * (1 + ROUNDING)
    counted = [attempt for attempt in attempts if attempt.epsilon is None or attempt.epsilon <= limit]

    def broken(index: int) -> bool:
        return any(not attempt.robust[index] and attempt.distance[index] <= limit for attempt in counted)

    return tuple(right and not broken(index) for index, right in enumerate(clean))


def looked_at(attempt: Attempt) -> int:
    """Return how many images, from the first, an attempt looked at; what became of the others is earlier attempts'."""
    return int(attempt.settings.get("images", len(attempt.robust)))


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
