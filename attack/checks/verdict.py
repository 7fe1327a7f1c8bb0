"""The verdict in words, for each norm and radius: holds, not robust, masking suspected, inconclusive, near chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from attack.attacks import OWN_NORMS, AttackResult, Norm, radius_name
from attack.checks import Check, planted
from attack.checks.attacks import check_attacks
from attack.checks.robustness import Cell, accuracy, is_within, robust_cells, wilson

Word = Literal["holds", "masking suspected", "not robust", "inconclusive", "near chance"]

SMALLEST: Mapping[Norm, float] = {"linf": 2 / 255, "l2": 0.125, "l1": 3.0}  # below, no model is called robust
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
    "a fresh copy answers alike",
    planted.NAME,
)

_SURROGATE = "--surrogate with a network whose gradient leads through what has none"
_OWN = "--attack with an attack made for this defence"
NEXT = {
    "repeatable": "--eot with more draws, such as 20",
    "logits, not probabilities": "--loss with a loss of probabilities",
    "no autograd inside": _SURROGATE,
    "gradient reaches the pixels": _SURROGATE,
    "gradient is the derivative": _SURROGATE,
    "gradient lasts for a step": _SURROGATE,
    "attacks raise the loss": _SURROGATE,
    "planted examples are found": _SURROGATE,
    "unbounded attack reaches 0": _SURROGATE,
    "same gradient in any batch": "--batch-size 1",
    "stable under noise": _OWN,
    "black box is not stronger": "--suite full",
    "transfer is not stronger": _SURROGATE,
    "many steps are not weaker than one": _OWN,
    "noise is weaker than the attack": _OWN,
    "larger ε never helps": _OWN,
    "single steps do not fail alone": "--suite full",
}


@dataclass(frozen=True)
class Verdict:
    """A word for one norm and radius, the reasons for it as sentences, and the numbers that they rest on.

    `epsilon` is None where no attack had a radius.
    """

    word: Word
    reasons: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)
    norm: Norm = "linf"
    epsilon: float | None = None


def evaluate(
    clean: Sequence[bool], attacks: Sequence[AttackResult], checks: Sequence[Check], classes: int
) -> tuple[tuple[Check, ...], tuple[Verdict, ...]]:
    """Return all checks, those of the attacks made anew, and the verdicts that follow (see `verdicts`)."""
    fresh = tuple(check_attacks(attacks, clean, classes))
    names = {check.name for check in fresh}
    found = (*(check for check in checks if check.name not in names), *fresh)
    return found, verdicts(clean, attacks, found, classes)


def verdicts(
    clean: Sequence[bool], attacks: Sequence[AttackResult], checks: Sequence[Check], classes: int
) -> tuple[Verdict, ...]:
    """Return a verdict for every norm and radius that the images were attacked at; a single one where there is none.

    Args:
        clean: which of N images a model gets right as they are.
        attacks: attacks on the same images.
        checks: checks of the model, and of attacks at each radius.
        classes: the model's number of classes.

    The images of a verdict are the first n that met every attack which counts at its radius; an image is broken where
    any attack broke it within that radius. Of the accuracy that is left, Wilson's 95 % interval is compared with a
    floor: guessing (1 / classes), and above it a quarter of what the model knows beyond guessing on the clean images,
    but at least a tenth of the way from guessing to always right. The first word that fits:

    1. *near chance*: the clean accuracy may lie less than that tenth above guessing. Such a model has no robustness to
       measure.
    2. *not robust*: the interval lies below the floor. A model shown broken is broken, whatever its checks say.
    3. *masking suspected*: a check of the model, or of attacks at this radius, failed whose failure means that attacks
       may be blind to a weakness.
    4. *inconclusive*: what a claim of robustness needs is missing: a radius of at least 2/255 (L∞), 0.125 (L2) or 3
       (L1); 100 images; strong attacks at the radius (AutoAttack, or PGD with two losses, one with its steps doubled,
       and Square with 1,000 queries); the checks that find masking; no failed check that makes the numbers unreliable;
       an interval clear of the floor.
    5. *holds*: none of these; the model keeps the stated accuracy at this radius against the attacks made.
    """
    cells = robust_cells(clean, attacks)
    if cells:
        return tuple(_verdict(cell, clean[: len(cell.robust)], attacks, checks, classes) for cell in cells)
    numbers = _clean_numbers(clean, classes)
    if near_chance := _near_chance(numbers):
        return (Verdict("near chance", (near_chance,), numbers),)
    return (Verdict("inconclusive", ("No attack within a radius was made.",), numbers),)


def _verdict(
    cell: Cell, clean: Sequence[bool], attacks: Sequence[AttackResult], checks: Sequence[Check], classes: int
) -> Verdict:
    """Return the first word that fits, and why."""
    numbers = _clean_numbers(clean, classes)
    chance, (low, high) = 1 / max(classes, 2), wilson(sum(cell.robust), len(cell.robust))
    skill = (numbers["clean"] - chance) / (1 - chance)  # 0: guesses, 1: always right
    floor = chance + (1 - chance) * max(NEAR_CHANCE, KEPT * skill)
    numbers |= {"worst": accuracy(cell.robust), "worst_low": low, "worst_high": high, "floor": floor}
    left = f"Attacks within {radius_name(cell.norm, cell.epsilon)} leave {_share(numbers, 'worst')}"
    left += f" of {numbers['clean']:.1%} on {len(cell.robust)} images"
    failed = [check for check in checks if not check.passed and check.concerns(cell.norm, cell.epsilon)]
    made = {check.name for check in checks if check.concerns(cell.norm, cell.epsilon)}
    word: Word
    reasons: tuple[str, ...]
    if near_chance := _near_chance(numbers):
        word, reasons = "near chance", (near_chance,)
    elif high < floor:
        word, reasons = "not robust", (f"{left}, below {floor:.1%}.",)
    elif reasons := tuple(_sentence(check) for check in failed if check.failure == "masking"):
        word = "masking suspected"
    elif reasons := tuple(_doubts(cell, numbers, attacks, made, failed)):
        word = "inconclusive"
    else:
        word, reasons = "holds", (f"{left}, above {floor:.1%}, and all checks for masking passed.",)
    return Verdict(word, reasons, numbers, cell.norm, cell.epsilon)


def _near_chance(numbers: Mapping[str, float]) -> str:
    """Return the rule in a sentence where the clean accuracy is too near guessing, else nothing."""
    chance = 1 / max(numbers["classes"], 2)
    least = chance + NEAR_CHANCE * (1 - chance)
    if numbers["clean_low"] >= least:
        return ""
    return (
        f"It gets {_share(numbers, 'clean')} of {numbers['images']:.0f} clean images right, where guessing gets "
        f"{chance:.1%}: the interval must lie above {least:.1%}, a tenth of the way from guessing to always right."
    )


def _clean_numbers(clean: Sequence[bool], classes: int) -> dict[str, float]:
    low, high = wilson(sum(clean), len(clean))
    numbers = {"images": len(clean), "classes": classes, "chance": 1 / classes}
    return {**numbers, "clean": accuracy(clean), "clean_low": low, "clean_high": high}


def _doubts(
    cell: Cell, numbers: Mapping[str, float], attacks: Sequence[AttackResult], made: set[str], failed: Sequence[Check]
) -> Iterator[str]:
    """Yield what keeps a model that was not broken from being called robust, by checks made, and failed, here."""
    if not is_within(SMALLEST[cell.norm], cell.epsilon):
        yield f"The radius is below {radius_name(cell.norm, SMALLEST[cell.norm])}."
    if len(cell.robust) < ENOUGH_IMAGES:
        yield f"Only {len(cell.robust)} images met all attacks; {ENOUGH_IMAGES} are needed."
    if missing := _missing_attacks([a for a in attacks if (a.norm, a.epsilon) == (cell.norm, cell.epsilon)]):
        yield f"Strong attacks are missing at {radius_name(cell.norm, cell.epsilon)}: {missing}."
    needed = NEEDED if cell.norm in OWN_NORMS else tuple(name for name in NEEDED if name != planted.NAME)
    if unchecked := [name for name in needed if name not in made]:
        yield f"Checks are missing: {', '.join(unchecked)}."
    # A needed check that could tell nothing counts too.
    yield from (_sentence(check) for check in failed if check.failure == "inconclusive" or check.name in NEEDED)
    if numbers["worst_low"] <= numbers["floor"]:
        yield f"What attacks leave, {_share(numbers, 'worst')}, is not clearly above {numbers['floor']:.1%}."


def _missing_attacks(here: Sequence[AttackResult]) -> str:
    """Return which strong attacks are not among those at the radius, in words; AutoAttack alone is enough."""
    names = {attack.name for attack in here}
    if "autoattack" in names:
        return ""
    queries = max((attack.settings.get("queries", 0) for attack in here if attack.name == "square"), default=0)
    missing = [] if "pgd-ce-doubled" in names else ["PGD with its steps doubled"]
    missing += [] if names & {"pgd-dlr", "pgd-margin", "pgd-targeted"} else ["PGD with a second loss"]
    missing += [] if queries >= ENOUGH_QUERIES else [f"Square with {ENOUGH_QUERIES:,} queries"]
    return ", ".join(missing)


def _sentence(check: Check) -> str:
    option = f" Next, try {NEXT[check.name]}." if check.name in NEXT else ""
    return f"{check.name[0].upper()}{check.name[1:]}: {check.detail}.{option}"


def _share(numbers: Mapping[str, float], name: str) -> str:
    low, high = numbers[f"{name}_low"], numbers[f"{name}_high"]
    return f"{numbers[name]:.1%} ({low:.1%} to {high:.1%})"
