"""The verdict's rule as a table of constructed situations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, nn

from attack.attacks import Attacked, AttackResult, Kind, Norm
from attack.checks import Check, Failure
from attack.checks.attacks import check_copies
from attack.checks.model import check_model
from attack.checks.planted import check_planted
from attack.checks.robustness import wilson
from attack.checks.verdict import ENOUGH_QUERIES, NEEDED, Verdict, verdicts

STANDARD = 8 / 255
PASSED = tuple(Check(name, True, "fine") for name in NEEDED)


def attack(
    name: str,
    left: float,
    n: int,
    *,
    epsilon: float = STANDARD,
    kind: Kind = "white-box",
    norm: Norm = "linf",
    reached: float | None = None,
    **settings: Any,
) -> AttackResult:
    """Return an attack that leaves a share of n images, moving them by `reached`, by default as far as it may."""
    robust = tuple(index < round(left * n) for index in range(n))
    return AttackResult(
        name, kind, norm, epsilon, robust, (epsilon if reached is None else reached,) * n, 0, 0, 0.0, settings
    )


def strong(left: float, n: int = 500, **changes: Any) -> list[AttackResult]:
    square = attack("square", left + 0.1, n, kind="black-box", queries=ENOUGH_QUERIES, **changes)
    names = ("pgd-ce", "pgd-ce-doubled", "pgd-dlr")
    return [*(attack(name, left, n, **changes) for name in names), square]


def failed(failure: Failure, name: str = "a check") -> Check:
    return Check(name, False, "not fine", failure=failure)


@dataclass
class Case:
    """What the rule is given, and the word it must find; `says` stands in one of its reasons."""

    word: str
    attacks: Sequence[AttackResult]
    checks: Sequence[Check] = PASSED
    clean: float = 0.9
    n: int = 500
    classes: int = 10
    says: str = ""


CASES = {
    "robust": Case("holds", strong(0.5), says="leave 50.0% (45.6% to 54.4%) of 90.0% on 500 images, above 30.0%"),
    "robust by AutoAttack": Case("holds", [attack("autoattack", 0.5, 500)]),
    "robust in L2": Case("holds", strong(0.5, norm="l2", epsilon=0.5), says="L2 0.5"),
    "robust at a smaller radius": Case("holds", strong(0.5, epsilon=4 / 255), says="L∞ 4/255"),
    "a note fails": Case("holds", strong(0.5), (*PASSED, failed("note"))),
    "the standard radius counts": Case("holds", [*strong(0.5), *strong(0.0, epsilon=16 / 255)], says="8/255"),
    "a larger radius's survivors": Case(
        "holds", [*strong(0.5), *strong(0.0, epsilon=16 / 255, reached=0.0)], says="8/255"
    ),
    "two classes, above guessing": Case("holds", strong(0.75), classes=2),
    "undefended": Case("not robust", strong(0.0), says="0.0% (0.0% to 0.8%)"),
    "undefended, by quick attacks": Case("not robust", [attack("pgd-ce", 0.0, 500)], ()),
    "undefended, ten images": Case("not robust", [attack("pgd-ce", 0.0, 10)], n=10),
    "broken at a smaller radius": Case("not robust", [attack("pgd-ce", 0.0, 500, epsilon=2 / 255), *strong(0.5)]),
    "broken by another model's attack": Case(
        "not robust", [*strong(0.5), attack("transfer:b", 0, 500, kind="transfer")]
    ),
    "broken and masked": Case("not robust", strong(0.0), (*PASSED, failed("masking"))),
    "no better than guessing": Case("not robust", strong(0.5), classes=2),
    "a quarter of what it knows": Case("not robust", strong(0.25), says="below 30.0%"),
    "masked": Case("masking suspected", strong(0.5), (*PASSED, failed("masking")), says="A check: not fine."),
    "masked, few images": Case("masking suspected", strong(0.8, 20), (*PASSED, failed("masking")), n=20),
    "unsound": Case("inconclusive", strong(0.5), (*PASSED, failed("inconclusive")), says="A check"),
    "a needed check tells nothing": Case("inconclusive", strong(0.5), (*PASSED[:-1], failed("note", NEEDED[-1]))),
    "no checks": Case("inconclusive", strong(0.5), (), says="Checks are missing: eval mode"),
    "a check missing": Case("inconclusive", strong(0.5), PASSED[1:], says="Checks are missing: eval mode."),
    "few images": Case("inconclusive", strong(0.7, 60), n=60, says="Only 60 images"),
    "strong attacks on few images": Case("inconclusive", strong(0.5, images=60), says="Only 60 images"),
    "between": Case("inconclusive", strong(0.3), says="30.0% (26.1% to 34.2%), is not clearly above"),
    "no attacks": Case("inconclusive", [], says="No attack"),
    "only noise": Case("inconclusive", [attack("noise", 0.9, 500, kind="noise")], says="No attack"),
    "only unbounded": Case("inconclusive", [attack("unbounded", 0, 500, epsilon=1.0, kind="unbounded")]),
    "quick attacks": Case("inconclusive", [attack("pgd-ce", 0.5, 500)], says="PGD with its steps doubled, PGD with a"),
    "few queries": Case(
        "inconclusive", [*strong(0.5)[:3], attack("square", 0.6, 500, queries=100)], says="1,000 queries"
    ),
    "a tiny radius": Case("inconclusive", strong(0.85, epsilon=1 / 255), says="below L∞ 2/255"),
    "broken beyond the radius": Case("holds", [*strong(0.5), attack("pgd-ce", 0, 500, reached=1.1 * STANDARD)]),
    "untrained": Case("near chance", strong(0.1, 200), clean=0.155, n=200, says="15.5%"),
    "untrained, masked": Case("near chance", strong(0.1), (failed("masking"),), clean=0.12),
    "near chance of a hundred": Case("near chance", [], clean=0.1, classes=100),
    "two classes, hardly trained": Case("near chance", strong(0.5), clean=0.56, classes=2),
}


def at(epsilon: float, found: Sequence[Verdict]) -> Verdict:
    return next((verdict for verdict in found if verdict.epsilon == epsilon), found[0])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_rule(case: Case) -> None:
    clean = [index < round(case.clean * case.n) for index in range(case.n)]
    found = at(STANDARD, verdicts(clean, case.attacks, case.checks, case.classes))
    assert (found.word, bool(found.reasons)) == (case.word, True), found.reasons
    assert case.says in " ".join(found.reasons)
    if found.numbers["images"] == case.n:
        assert found.numbers["clean"] == pytest.approx(case.clean, abs=0.01)


def test_the_numbers_are_those_of_the_worst_case_over_all_attacks() -> None:
    first = attack("pgd-ce", 0.5, 200)
    second = attack("pgd-dlr", 0.5, 200)
    second = AttackResult(**{**vars(second), "robust": second.robust[::-1]})
    (found,) = verdicts([True] * 200, [first, second], PASSED, 10)
    numbers = found.numbers
    assert (numbers["worst"], found.epsilon, numbers["images"]) == (0, STANDARD, 200)
    assert (numbers["worst_low"], numbers["worst_high"]) == wilson(0, 200)


def test_the_needed_checks_exist(plain_model: nn.Module, test_images: tuple[Tensor, Tensor]) -> None:
    def still(_: nn.Module, images: Tensor, __: Tensor) -> Attacked:
        return Attacked(images, 0, 0)

    made = {check.name for check in check_model(plain_model, *test_images)}
    made |= {check_planted(plain_model, test_images[0], still, epsilon=STANDARD).name, check_copies([]).name}
    made.add("unbounded attack reaches 0")
    assert set(NEEDED) <= made
