"""The verdict in words: holds, not robust, masking suspected, inconclusive, or near chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from attack.attacks.attack import AttackResult, Norm
from attack.checks.check import Check
from attack.checks.robustness import ROUNDING, Robust, accuracy, looked_at, wilson, within

Word = Literal["holds", "masking suspected", "not robust", "inconclusive", "near chance"]

STANDARD: Mapping[Norm, float] = {"linf": 8 / 255, "l2": 0.5}  # RobustBench's radii for small images
SMALLEST: Mapping[Norm, float] = {"linf": 2 / 255, "l2": 0.125}  # below, no model is called robust
NEAR_CHANCE = 0.1  # of the way from guessing to always right
KEPT = 0.25  # of what the model knows beyond guessing
ENOUGH_IMAGES = 100
ENOUGH_QUERIES = 1000
NEEDED = (
    "eval mode",
    "float32",
    "repeatable",
    "gradient reaches the pixels",
    "gradient is the derivative",
    "unbounded attack reaches 0",
    "planted examples are found",
)


@dataclass(frozen=True)
class Verdict:
    """A word, the reasons for it as sentences, and the numbers that they rest on."""

    word: Word
    reasons: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)


class _Worst(NamedTuple):
    """Radius of the verdict, and which of the first images that its strong attacks looked at are left."""

    norm: Norm
    epsilon: float
    robust: Robust


def verdict(clean: Sequence[bool], attacks: Sequence[AttackResult], checks: Sequence[Check], classes: int) -> Verdict:
    """Judge a model of `classes` classes by its answers to N images, attacks on the same images, and checks.

    The rule looks at the standard radius (8/255 for L∞) where it was attacked, else at the largest that was, and counts
    an image as broken if any attack broke it within that radius. Of the model's accuracy there, Wilson's 95 % interval
    is compared with a floor: guessing (1 / classes), and above it a quarter of what the model knows beyond guessing on
    clean images, but at least a tenth of the way from guessing to always right. The first that fits:

    1. *near chance*: the clean accuracy may lie less than that tenth above guessing. Such a model has no robustness to
       measure.
    2. *not robust*: the interval lies below the floor. A model shown broken is broken, whatever its checks say.
    3. *masking suspected*: a check failed whose failure means that attacks may be blind to a weakness.
    4. *inconclusive*: what a claim of robustness needs is missing: an attack within at least 2/255; 100 images; strong
       attacks at the radius (AutoAttack, or PGD with two losses, one with its steps doubled, and Square with 1,000
       queries); the checks that find masking; no failed check that makes the numbers unreliable; an interval clear of
       the floor.
    5. *holds*: none of these; the model keeps the stated accuracy at the stated radius against the attacks made.
    """
    known = _clean_numbers(clean, classes)
    if _skill(known["clean_low"], classes) < NEAR_CHANCE:
        reason = f"It gets {_share(known, 'clean')} of clean images right, where guessing gets {1 / classes:.1%}."
        return Verdict("near chance", (reason,), known)
    worst = _worst_case(clean, attacks)
    if worst is None:
        return Verdict("inconclusive", ("No attack within a radius was made.",), known)
    numbers = {**known, **_worst_numbers(worst, known["clean"], classes)}
    left = f"Attacks within {_radius(worst)} leave {_share(numbers, 'worst')} of {known['clean']:.1%}"
    if numbers["worst_high"] < numbers["floor"]:
        return Verdict("not robust", (f"{left}, below {numbers['floor']:.1%}.",), numbers)
    masked = tuple(_sentence(check) for check in checks if not check.passed and check.failure == "masking")
    if masked:
        return Verdict("masking suspected", masked, numbers)
    doubts = tuple(_doubts(worst, numbers, attacks, checks))
    if doubts:
        return Verdict("inconclusive", doubts, numbers)
    return Verdict("holds", (f"{left}, above {numbers['floor']:.1%}, and all checks for masking passed.",), numbers)


def _skill(share: float, classes: int) -> float:
    """Return how far an accuracy lies on the way from guessing (0) to always right (1)."""
    chance = 1 / max(classes, 2)
    return (share - chance) / (1 - chance)


def _clean_numbers(clean: Sequence[bool], classes: int) -> dict[str, float]:
    low, high = wilson(sum(clean), len(clean))
    chance = 1 / classes
    return {"images": len(clean), "chance": chance, "clean": accuracy(clean), "clean_low": low, "clean_high": high}


def _worst_case(clean: Sequence[bool], attacks: Sequence[AttackResult]) -> _Worst | None:
    """Return the worst case at the radius that counts, over the images that all strong attacks there looked at."""
    bounded = [attack for attack in attacks if attack.epsilon and attack.kind not in ("unbounded", "noise")]
    for norm in ("linf", "l2"):
        radii = {attack.epsilon or 0.0 for attack in bounded if attack.norm == norm}
        if radii:
            epsilon = min(radii, key=lambda radius: (abs(radius - STANDARD[norm]) > ROUNDING * radius, -radius))
            same = [attack for attack in attacks if attack.norm == norm]
            strong = [attack for attack in same if _at(attack, epsilon) and attack.kind in ("white-box", "black-box")]
            seen = min((looked_at(attack) for attack in strong), default=len(clean))
            return _Worst(norm, epsilon, within(same, clean, epsilon)[:seen])
    return None


def _worst_numbers(worst: _Worst, clean: float, classes: int) -> dict[str, float]:
    low, high = wilson(sum(worst.robust), len(worst.robust))
    floor = 1 / classes + (1 - 1 / classes) * max(NEAR_CHANCE, KEPT * _skill(clean, classes))
    left = {"worst": accuracy(worst.robust), "worst_low": low, "worst_high": high}
    return {"epsilon": worst.epsilon, **left, "worst_images": len(worst.robust), "floor": floor}


def _doubts(
    worst: _Worst, numbers: Mapping[str, float], attacks: Sequence[AttackResult], checks: Sequence[Check]
) -> Iterator[str]:
    """Yield what keeps a model that was not broken from being called robust."""
    if worst.epsilon < SMALLEST[worst.norm] * (1 - ROUNDING):
        yield f"No attack went beyond {_radius(worst)}."
    if len(worst.robust) < ENOUGH_IMAGES:
        yield f"Only {len(worst.robust)} images met all strong attacks; {ENOUGH_IMAGES} are needed."
    missing = _missing_attacks([a for a in attacks if a.norm == worst.norm and _at(a, worst.epsilon)])
    if missing:
        yield f"Strong attacks are missing at {_radius(worst)}: {missing}."
    unchecked = [name for name in NEEDED if name not in {check.name for check in checks}]
    if unchecked:
        yield f"Checks are missing: {', '.join(unchecked)}."
    yield from (_sentence(check) for check in checks if not check.passed and _counts(check))
    if numbers["worst_low"] <= numbers["floor"]:
        yield f"What attacks leave, {_share(numbers, 'worst')}, is not clearly above {numbers['floor']:.1%}."


def _missing_attacks(here: Sequence[AttackResult]) -> str:
    """Return which strong attacks are not among those at the radius, in words; AutoAttack alone is enough."""
    names = {attack.name for attack in here}
    if "autoattack" in names:
        return ""
    queries = max((attack.settings.get("queries", 0) for attack in here if attack.name == "square"), default=0)
    missing = [] if "pgd-ce-doubled" in names else ["PGD with its steps doubled"]
    missing += [] if names & {"pgd-dlr", "pgd-margin"} else ["PGD with a second loss"]
    missing += [] if queries >= ENOUGH_QUERIES else [f"Square with {ENOUGH_QUERIES:,} queries"]
    return ", ".join(missing)


def _counts(check: Check) -> bool:
    """Tell whether a failure counts against a claim of robustness; a needed check that could tell nothing does."""
    return check.failure == "inconclusive" or check.name in NEEDED


def _at(attack: AttackResult, epsilon: float) -> bool:
    return attack.epsilon is not None and abs(attack.epsilon - epsilon) <= ROUNDING * epsilon


def _sentence(check: Check) -> str:
    return f"{check.name[0].upper()}{check.name[1:]}: {check.detail}."


def _radius(worst: _Worst) -> str:
    return f"L∞ {worst.epsilon * 255:.3g}/255" if worst.norm == "linf" else f"L2 {worst.epsilon:.3g}"


def _share(numbers: Mapping[str, float], name: str) -> str:
    low, high = numbers[f"{name}_low"], numbers[f"{name}_high"]
    return f"{numbers[name]:.1%} ({low:.1%} to {high:.1%})"
