"""Checks on what attacks found against what they must find: comparisons of attempts on the same images."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from attack.attacks.attempt import Attempt, Kind
from attack.checks.check import Check, Failure
from attack.checks.comparison import ROUNDING, accuracy, breaks_more, gain, looked_at, within

UNBOUNDED = 0.01  # of the images may withstand an attack without bounds
SQUARE = 0.002  # accuracy that Square may take below the white-box attacks (fra31/auto-attack, `check_square_sr`)
CONVERGED = 0.02  # accuracy that more steps or restarts may take
MOVING = 0.05  # of the loss in the last ten steps (Pintor et al. 2022)
SINGLE_STEP_LEAVES = 0.5  # of clean accuracy, where iterated attacks leave less than guessing
MASKED = "What knows less of the model finds more: the gradient is masked."
WEAKER: tuple[tuple[Kind, str, str, float, Failure], ...] = (
    ("single-step", "many steps are not weaker than one", "The gradient misleads on the way.", 0.0, "masking"),
    ("noise", "noise is weaker than the attack", "An attack that chance beats is none.", 0.0, "masking"),
    ("black-box", "black box is not stronger", MASKED, SQUARE, "masking"),
    ("transfer", "transfer is not stronger", MASKED, 0.0, "masking"),
    ("minimal-norm", "minimal norm is not stronger", "Attacks miss what lies nearby.", CONVERGED, "inconclusive"),
)


def check_attempts(attempts: Sequence[Attempt], clean: Sequence[bool], classes: int) -> Iterator[Check]:
    """Check attempts on the same N images, of which `clean` (N) tells what a model of `classes` gets right as they are.

    A check is yielded where the attempts that it compares are there. They are compared image by image (`breaks_more`),
    so that chance in few images is no sign.
    """
    yield _only_clean_are_robust(attempts, clean)
    yield _within_radius(attempts)
    yield from _unbounded(attempts)
    yield from _loss_rises(attempts)
    yield from _at_rest(attempts)
    yield from _larger_radius(attempts)
    yield from _weaker_kinds(attempts, clean)
    yield from _more_effort(attempts, clean)
    yield from _only_one_step_fails(attempts, clean, classes)


def _only_clean_are_robust(attempts: Sequence[Attempt], clean: Sequence[bool]) -> Check:
    wrong = sum(a and not b for attempt in attempts for a, b in zip(attempt.robust, clean, strict=True))
    return Check(
        "no attack mends an image",
        wrong == 0,
        f"{wrong} times an image that is wrong as it is counted as robust",
        "Robust accuracy counts images that are right before and after; anything else flatters the model.",
        {"images": wrong},
    )


def _within_radius(attempts: Sequence[Attempt]) -> Check:
    bounded = [(max(attempt.distance, default=0.0), attempt.epsilon) for attempt in attempts if attempt.epsilon]
    largest = max((distance / epsilon for distance, epsilon in bounded), default=0.0)
    return Check(
        "attacked images within their radius",
        largest <= 1 + ROUNDING,
        f"the farthest of {len(bounded)} attacks went to {largest:.4f} of its ε",
        "Images changed by more than ε say nothing about ε.",
        {"largest": largest},
    )


def _unbounded(attempts: Sequence[Attempt]) -> Iterator[Check]:
    lefts = [accuracy(attempt.robust) for attempt in attempts if attempt.kind == "unbounded"]
    if lefts:
        left = min(lefts)
        yield Check(
            "unbounded attack reaches 0",
            left <= UNBOUNDED,
            f"accuracy {left:.1%} against an attack that may change every pixel at will",
            "With no bound every image can be made another; an attack that fails at that fails at anything.",
            {"accuracy": left},
            "masking",
        )


def _loss_rises(attempts: Sequence[Attempt]) -> Iterator[Check]:
    known = [a for a in attempts if a.kind == "white-box" and {"first", "last"} <= a.losses.keys() and any(a.robust)]
    fallen = [attempt for attempt in known if not attempt.losses["last"] >= attempt.losses["first"]]
    if known:
        yield Check(
            "attacks raise the loss",
            not fallen,
            f"{len(fallen)} of {len(known)} attacks ended with a lower loss than they began with{_named(fallen)}",
            "An attack that does not raise the loss is not an attack: its gradient points nowhere.",
            {"attacks": len(fallen)},
            "masking",
        )


def _at_rest(attempts: Sequence[Attempt]) -> Iterator[Check]:
    """See that at each radius the attempt that moved least in its last steps hardly moved (Pintor et al. 2022)."""
    known = [a for a in attempts if a.kind == "white-box" and "change_last_10" in a.losses and any(a.robust)]
    changes: dict[float | None, float] = {}
    for attempt in known:
        change = abs(attempt.losses["change_last_10"])
        changes[attempt.epsilon] = min(change, changes.get(attempt.epsilon, change))
    if changes:
        yield Check(
            "attacks come to rest",
            max(changes.values()) <= MOVING,
            f"the loss of the attack that moved least changed by {max(changes.values()):.1%} in its last steps",
            "An attack that is still getting better when it stops measures its own patience.",
            {"change": max(changes.values())},
        )


def _larger_radius(attempts: Sequence[Attempt]) -> Iterator[Check]:
    runs: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.epsilon or 0):
        if attempt.epsilon is not None:
            runs.setdefault((attempt.name, attempt.norm), []).append(attempt)
    pairs = [pair for run in runs.values() for pair in pairwise(run)]
    worse = [large for small, large in pairs if breaks_more(small.robust, large.robust)]
    if pairs:
        yield Check(
            "larger ε never helps",
            not worse,
            f"in {len(worse)} of {len(pairs)} pairs of radii the larger one broke fewer images{_named(worse)}",
            "Whatever is found within a radius lies within a larger one: the attack loses its way (silent success).",
            {"pairs": len(pairs), "worse": len(worse)},
            "masking",
        )


def _weaker_kinds(attempts: Sequence[Attempt], clean: Sequence[bool]) -> Iterator[Check]:
    """See that attacks that know less, or seek something else, find no more than those along the gradient."""
    for kind, name, meaning, allowed, failure in WEAKER:
        others = [attempt for attempt in attempts if attempt.kind == kind]
        gains = [found for other in others for found in _gains(other, _along_the_gradient(attempts), clean)]
        if gains:
            detail = f"they take at most {max(gains):.1%} of accuracy below the white-box attacks, beyond chance"
            yield Check(name, max(gains) <= allowed, detail, meaning, {"gain": max(gains)}, failure)


def _along_the_gradient(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the white-box attacks without AutoAttack, which has Square in it and starts from others' survivors."""
    return [
        attempt for attempt in attempts if attempt.kind == "white-box" and not attempt.name.startswith("autoattack")
    ]


def _gains(other: Attempt, white: Sequence[Attempt], clean: Sequence[bool]) -> list[float]:
    """Return what an attempt takes below all white-box attempts of its norm, at its radius or, without one, at each."""
    rivals = [(rival, rival.epsilon) for rival in white if rival.norm == other.norm]
    radii = {radius for _, radius in rivals if radius is not None and other.epsilon in (None, radius)}
    seen = slice(looked_at(other))
    return [
        gain(
            within([other], clean, radius)[seen],
            within([rival for rival, own in rivals if own == radius], clean, radius)[seen],
        )
        for radius in radii
    ]


def _more_effort(attempts: Sequence[Attempt], clean: Sequence[bool]) -> Iterator[Check]:
    for name, title in (("pgd-ce-doubled", "twice the steps"), ("pgd-restarts", "restarts")):
        places = [place for place, attempt in enumerate(attempts) if attempt.name == name]
        gains = [_gain_on_earlier(attempts[place], attempts[:place], clean) for place in places]
        if gains:
            yield Check(
                f"{title} change little",
                max(gains) <= CONVERGED,
                f"{title} take at most {max(gains):.1%} of accuracy more, beyond chance",
                "An attack that gains by more effort has not found the worst case yet.",
                {"gain": max(gains)},
            )


def _gain_on_earlier(attempt: Attempt, earlier: Sequence[Attempt], clean: Sequence[bool]) -> float:
    """Return what an attempt takes below the white-box attacks before it, whose survivors alone it may have met."""
    before = [other for other in _along_the_gradient(earlier) if other.norm == attempt.norm]
    return gain(attempt.robust, within(before, clean, attempt.epsilon or 0))


def _only_one_step_fails(attempts: Sequence[Attempt], clean: Sequence[bool], classes: int) -> Iterator[Check]:
    """See that no radius has single steps that leave half of clean accuracy where iterated attacks leave none."""
    white = [attempt for attempt in attempts if attempt.kind == "white-box"]
    pairs = []
    for single in (attempt for attempt in attempts if attempt.kind == "single-step" and attempt.epsilon):
        rivals = [rival for rival in white if (rival.norm, rival.epsilon) == (single.norm, single.epsilon)]
        if rivals:
            pairs.append((accuracy(single.robust), accuracy(within(rivals, clean, single.epsilon or 0))))
    if pairs:
        one, many = max(pairs, key=lambda pair: pair[0] - pair[1])
        yield Check(
            "single steps do not fail alone",
            not any(a > SINGLE_STEP_LEAVES * accuracy(clean) and b < 1 / classes for a, b in pairs),
            f"where they differ most, a single step leaves {one:.1%} and iterated attacks {many:.1%}",
            "Robust to one step and to nothing more: the sign of training that masks gradients.",
            {"single": one, "iterated": many},
            "masking",
        )


def _named(attempts: Sequence[Attempt]) -> str:
    return f" ({', '.join(sorted({attempt.name for attempt in attempts}))})" if attempts else ""
