"""The number that counts: an image is robust at a radius where no attack found anything within it."""

from collections.abc import Iterable, Sequence

from attack.attacks.attempt import Attempt, Norm


def worst_case(clean: Sequence[bool], attempts: Iterable[Attempt], norm: Norm, epsilon: float) -> tuple[bool, ...]:
    """Return which of the N images are classified correctly as they are and withstand every attempt within `epsilon`.

    Attempts of `norm` with no larger radius count, whatever their kind, and so does what a minimal-norm attack found
    at a distance of at most `epsilon`. A clean error is an error at every radius, as RobustBench counts it.
    """
    standing = list(clean)
    for attempt in attempts:
        if attempt.norm == norm:
            standing = [left and survived for left, survived in zip(standing, _survived(attempt, epsilon), strict=True)]
    return tuple(standing)


def _survived(attempt: Attempt, epsilon: float) -> tuple[bool, ...]:
    if attempt.epsilon is None:
        return tuple(distance > epsilon for distance in attempt.distance)
    return attempt.robust if attempt.epsilon <= epsilon else (True,) * len(attempt.robust)
