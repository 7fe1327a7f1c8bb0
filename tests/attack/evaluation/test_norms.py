"""Suites in several norms: each radius has its attacks, its verdict, and distances in its own norm."""

from dataclasses import replace
from pathlib import Path

import pytest

from attack import AttackConfig, attack_model, read_result
from attack.evaluation.result import metrics
from attack.evaluation.suite import plan_attacks
from stylize.console import InputError
from tests.attack.planted.networks import undefended, write_shards

CONFIG = AttackConfig(images=12, norm="linf,l2,l1", epsilons=(8 / 255,), epsilons_l2=(0.05, 1.0), steps=2)


def test_every_norm_has_attacks_and_a_verdict_at_its_radii(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards")
    attack_model(undefended(), shards, tmp_path / "r.json", CONFIG)
    result = read_result(tmp_path / "r.json")
    radii = [("linf", 8 / 255), ("l2", 0.05), ("l2", 1.0), ("l1", 12.0)]
    assert [(verdict.norm, verdict.epsilon) for verdict in result.verdicts] == radii
    words = {radius: verdict.word for radius, verdict in zip(radii, result.verdicts, strict=True)}
    assert (words["linf", 8 / 255], words["l2", 1.0], words["l1", 12.0]) == ("not robust",) * 3
    assert {f"robust_{radius}" for radius in ("8_of_255", "l2_0.05", "l2_1", "l1_12")} <= metrics(result).keys()
    for attack in result.attacks:
        if attack.epsilon and any(attack.distance):
            assert 0 < max(attack.distance) <= attack.epsilon * (1 + 1e-4)
    assert {attack.name for attack in result.attacks if attack.norm == "l1"} == {"apgd-ce"}
    assert {attack.name for attack in result.attacks if attack.norm == "l2"} == {
        "single-step", "noise", "pgd-ce", "pgd-targeted",
    }  # fmt: skip


def test_full_has_autoattack_in_every_norm_and_minimal_norms_in_two() -> None:
    planned = {(one.name, one.norm) for one in plan_attacks(replace(CONFIG, suite="full"), 10)}
    assert {norm for name, norm in planned if name == "autoattack"} == {"linf", "l2", "l1"}
    assert {norm for name, norm in planned if name == "minimal-norm"} == {"linf", "l2"}


def test_l1_needs_the_library_and_four_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="needs 4 classes and the model has 3"):
        plan_attacks(CONFIG, 3)
    monkeypatch.setattr("attack.evaluation.suite.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--norm l1 .*stylized-pairing\[attacks\]"):
        plan_attacks(CONFIG, 10)
