"""What attacks broke at a radius: one rule, which page, metrics and verdict keep to, and Wilson's interval."""

import json
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from attack.attacks import AttackResult, Kind, Norm
from attack.checks.robustness import TOLERANCE, images_met, robust_cells, wilson, worst_case
from attack.checks.verdict import verdicts
from attack.evaluation.result import Result, attack_document, encode_result, metrics, read_result
from attack.report.groups import group_results

RADII = (2 / 255, 8 / 255)
JUST_WITHIN, JUST_BEYOND = 1 + TOLERANCE / 2, 1 + 2 * TOLERANCE
KINDS: tuple[Kind, ...] = ("white-box", "black-box", "noise", "single-step", "minimal-norm", "transfer", "unbounded")


def random_attack(rng: np.random.Generator, clean: tuple[bool, ...], epsilon: float | None, kind: Kind) -> AttackResult:
    """Return an attack of random outcome whose distances often lie at the tolerance of a radius."""
    n = len(clean)
    robust = tuple(bool(right and rng.random() < 0.6) for right in clean)
    factor = rng.choice([0.5, 1, JUST_WITHIN, JUST_BEYOND], n)
    radius = np.full(n, epsilon) if epsilon else rng.choice(RADII, n)
    far = [inf if epsilon is None and kept else float(r * f) for kept, r, f in zip(robust, radius, factor, strict=True)]
    norm: Norm = "l2" if rng.random() < 0.2 else "linf"
    settings = {"images": int(rng.integers(n // 2, n + 1))}
    return AttackResult(f"a{rng.integers(99)}", kind, norm, epsilon, robust, tuple(far), 0, 0, 0.0, settings)


def slow(clean: tuple[bool, ...], attacks: list[AttackResult], norm: str, epsilon: float, index: int) -> bool:
    """Look at one image alone: is it right, and does no attack of the norm and of no larger radius break it nearby?"""
    limit = epsilon * (1 + TOLERANCE)
    for attack in attacks:
        counts = attack.norm == norm and (attack.epsilon or 0) <= limit
        if counts and not attack.robust[index] and attack.distance[index] <= limit:
            return False
    return clean[index]


def result_of(path: Path, clean: tuple[bool, ...], attacks: list[AttackResult], document: dict[str, Any]) -> Result:
    document["images"] = {"keys": [str(n) for n in range(len(clean))], "labels": [0] * len(clean), "correct": clean}
    document["protocol"]["epsilons"] = RADII
    document |= {"format_version": 3, "attacks": list(map(attack_document, attacks)), "checks": []}
    document["verdicts"] = list(map(asdict, verdicts(clean, attacks, (), 10)))
    path.write_bytes(encode_result(document))
    return read_result(path)


@pytest.mark.parametrize("seed", range(20))
def test_page_metrics_and_verdict_say_the_same(seed: int, earlier: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    clean = tuple((rng.random(40) < 0.8).tolist())
    attacks = [random_attack(rng, clean, epsilon, rng.choice(KINDS)) for epsilon in (*RADII, *RADII, None, RADII[1])]
    result = result_of(tmp_path / "r.json", clean, attacks, earlier([[1, 1]]))
    assert json.dumps(metrics(result))
    for cell, verdict in zip(robust_cells(clean, attacks), result.verdicts, strict=True):
        assert (verdict.norm, verdict.epsilon) == (cell.norm, cell.epsilon)
        n = images_met(attacks, cell.norm, cell.epsilon, len(clean))
        by_hand = tuple(slow(clean, attacks, cell.norm, cell.epsilon, index) for index in range(len(clean)))
        assert worst_case(clean, attacks, cell.norm, cell.epsilon) == by_hand
        assert cell.robust == by_hand[:n]
        assert (verdict.numbers["images"], verdict.numbers["worst"]) == (n, sum(by_hand[:n]) / n)
        assert verdict.numbers["clean"] == sum(clean[:n]) / n
        if cell.norm == "linf":
            column = f"{round(255 * cell.epsilon)}_of_255"
            shown = metrics(result)
            assert shown[f"robust_{column}"] == round(sum(by_hand[:n]) / n, 4)
            assert (shown[f"images_{column}"], shown[f"verdict_{column}"]) == (n, verdict.word)
            ((entry,),) = (group.entries for group in group_results([result]))
            assert entry.robust(cell.epsilon).tolist() == list(by_hand)


def test_the_verdict_at_a_radius_does_not_depend_on_larger_ones() -> None:
    rng = np.random.default_rng(0)
    clean = (True,) * 200
    small = [random_attack(rng, clean, RADII[0], "white-box") for _ in range(3)]
    large = [random_attack(rng, clean, RADII[1], "white-box") for _ in range(3)]
    alone, both = verdicts(clean, small, (), 10), verdicts(clean, [*small, *large], (), 10)
    assert alone == tuple(verdict for verdict in both if verdict.epsilon == RADII[0])
    assert {verdict.epsilon for verdict in both} == set(RADII)


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 100), (100, 100), (3, 10), (41, 129), (9_000, 10_000)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_is_scipys(successes: int, n: int, confidence: float) -> None:
    peer = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((peer.low, peer.high), abs=1e-12)


def test_no_survivor_of_a_hundred_is_not_certainty() -> None:
    assert wilson(0, 100) == pytest.approx((0, 0.037), abs=5e-4)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_nonsense_is_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, n, confidence)
