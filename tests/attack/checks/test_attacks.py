"""Tables of constructed attacks: sound ones pass, and each defect is caught by the check that looks for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

import pytest

from attack.attacks import AttackResult, Kind
from attack.checks.attacks import check_attacks
from attack.checks.robustness import breaks_more, gain, worst_case

N, CLASSES = 200, 10
CLEAN = tuple(index < 180 for index in range(N))
SMALL, LARGE = 2 / 255, 8 / 255


def attack(
    name: str, kind: Kind, epsilon: float | None, right: int, *, losses: dict[str, float] | None = None
) -> AttackResult:
    """Return an attack that leaves the first `right` images, and moves all of them by its radius."""
    robust = tuple(index < right for index in range(N))
    found = tuple(SMALL if index >= 118 else LARGE for index in range(N))  # by an attack that seeks the nearest
    distance = tuple(epsilon or (inf if kept else near) for kept, near in zip(robust, found, strict=True))
    return AttackResult(name, kind, "linf", epsilon, robust, distance, 0, 0, 0.0, {}, losses or {})


RISING = {"first": 0.3, "last": 4.0, "change_last_10": 0.01}
SOUND = (
    attack("single-step", "single-step", SMALL, 140),
    attack("noise", "noise", SMALL, 179),
    attack("pgd-ce", "white-box", SMALL, 120, losses=RISING),
    attack("pgd-dlr", "white-box", SMALL, 118, losses=RISING),
    attack("single-step", "single-step", LARGE, 70),
    attack("noise", "noise", LARGE, 175),
    attack("pgd-ce", "white-box", LARGE, 30, losses=RISING),
    attack("pgd-ce-doubled", "white-box", LARGE, 29, losses=RISING),
    attack("pgd-restarts", "white-box", LARGE, 28, losses=RISING),
    attack("pgd-dlr", "white-box", LARGE, 27, losses=RISING),
    attack("square", "black-box", LARGE, 45),
    attack("transfer:other", "transfer", LARGE, 90),
    attack("minimal-norm", "minimal-norm", None, 26),
    attack("autoattack", "white-box", LARGE, 25),
    attack("unbounded", "unbounded", 1.0, 0),
)


def changed(name: str, right: int, epsilon: float | None = LARGE) -> Callable[[AttackResult], AttackResult]:
    """Return a function that lets the attack of that name and radius leave another number of images."""

    def change(one: AttackResult) -> AttackResult:
        if (one.name, one.epsilon) != (name, epsilon):
            return one
        return replace(attack(name, one.kind, epsilon, right), losses=one.losses)

    return change


def losing(**losses: float) -> Callable[[AttackResult], AttackResult]:
    return lambda one: replace(one, losses={**one.losses, **losses}) if one.losses else one


def mended(one: AttackResult) -> AttackResult:
    return replace(one, robust=(*one.robust[:-1], True)) if one.name == "noise" else one


def afar(one: AttackResult) -> AttackResult:
    return replace(one, distance=(1.1 * LARGE, *one.distance[1:])) if one.name == "pgd-ce" else one


DEFECTS: dict[str, tuple[Callable[[AttackResult], AttackResult], set[str]]] = {
    "a wrong image counted as robust": (mended, {"no attack mends an image"}),
    "an image beyond its radius": (afar, {"attacked images within their radius"}),
    "unbounded fails": (changed("unbounded", 20, 1.0), {"unbounded attack reaches 0"}),
    "loss falls": (losing(last=0.2), {"attacks raise the loss"}),
    "loss is not a number": (losing(last=float("nan")), {"attacks raise the loss"}),
    "still climbing": (losing(change_last_10=0.08), {"attacks come to rest"}),
    "silent success": (changed("single-step", 150), {"larger ε never helps"}),
    "one step beats many": (changed("single-step", 10), {"many steps are not weaker than one"}),
    "noise beats the attack": (changed("noise", 10), {"noise is weaker than the attack"}),
    "Square beats the gradient": (changed("square", 12), {"black box is not stronger"}),
    "transfer beats the gradient": (changed("transfer:other", 12), {"transfer is not stronger"}),
    "twice the steps": (changed("pgd-ce-doubled", 25), {"twice the steps change little"}),
    "restarts": (changed("pgd-restarts", 20), {"restarts change little"}),
    "one step fails alone": (changed("single-step", 100), {"single steps do not fail alone"}),
}


def failures(attacks: Sequence[AttackResult], clean: Sequence[bool] = CLEAN) -> set[str]:
    checks = list(check_attacks(attacks, clean, CLASSES))
    assert len({check.title for check in checks}) == len(checks)
    assert all(check.meaning and check.numbers for check in checks)
    return {check.name for check in checks if not check.passed}


def test_sound_attacks_pass_every_check() -> None:
    assert len({check.name for check in check_attacks(SOUND, CLEAN, CLASSES)}) == 14
    assert failures(SOUND) == set()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_caught_by_its_check(defect: str) -> None:
    change, expected = DEFECTS[defect]
    extra = 40 if defect == "one step fails alone" else 0
    attacks = [change(one) for one in SOUND]
    if extra:  # iterated attacks leave less than guessing
        attacks = [replace(one, robust=(False,) * N) if one.kind == "white-box" else one for one in attacks]
    assert failures(attacks) == expected


def test_minimal_norm_counts_what_it_finds_within_each_radius() -> None:
    assert failures([changed("minimal-norm", 20, None)(one) for one in SOUND]) == {"minimal norm is not stronger"}
    far = attack("minimal-norm", "minimal-norm", None, 0)
    far = replace(far, distance=(2 * LARGE,) * N)
    assert failures([far if one.name == "minimal-norm" else one for one in SOUND]) == set()


def test_images_that_an_attack_never_looked_at_are_not_its_success() -> None:
    square = replace(attack("square", "black-box", LARGE, 12), settings={"images": 10})
    assert failures([square if one.name == "square" else one for one in SOUND]) == set()


def test_few_images_of_difference_are_no_sign() -> None:
    for right, caught in ((27 - 3, False), (27 - 4, True)):
        found = failures([changed("square", right)(one) for one in SOUND])
        assert found == ({"black box is not stronger"} if caught else set())


def test_few_attacks_have_few_checks() -> None:
    assert [check.name for check in check_attacks([], CLEAN, CLASSES)] == [
        "no attack mends an image",
        "attacked images within their radius",
    ]


def test_within_counts_an_attacked_image_only_where_it_is_near_enough() -> None:
    one = replace(SOUND[2], robust=(False,) * N, distance=(SMALL,) * 100 + (LARGE,) * 100)
    assert sum(worst_case(CLEAN, [one], "linf", SMALL)) == 80
    assert sum(worst_case(CLEAN, [one], "linf", LARGE)) == 0
    assert worst_case(CLEAN, [], "linf", LARGE) == CLEAN


def test_breaks_more_is_a_sign_test() -> None:
    none, four = (True,) * 50, (False,) * 4 + (True,) * 46
    three, other = (False,) * 3 + (True,) * 47, (True,) * 48 + (False,) * 2
    assert breaks_more(four, none)
    assert not breaks_more(three, none)
    assert not breaks_more(four, other)
    assert not breaks_more(none, none)
    assert gain(four, none) == pytest.approx(0.08)
    assert gain(three, none) == 0
