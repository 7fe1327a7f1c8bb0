"""Checks and verdict of one result."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from attack.attacks.attack import AttackResult
from attack.attacks.paper_path import AttackPath
from attack.checks.attacks import check_attacks, check_path
from attack.checks.check import Check
from attack.checks.model import check_model
from attack.checks.planted import check_planted
from attack.checks.verdict import Verdict, verdict
from attack.evaluation.images import ImageSet
from attack.evaluation.suite import AttackConfig, main_attack
from attack.evaluation.target import Target

CHECKED_IMAGES = 32  # of the image set: the checks of the model are on few images


def checks_of_model(target: Target, images: ImageSet, config: AttackConfig) -> dict[str, Any]:
    """Return the part `checks` of an evaluation: the checks that need the model alone, and how long they took."""
    started = time.perf_counter()
    pixels, labels = (part[:CHECKED_IMAGES] for part in (images.pixels, images.labels))
    checks = [*check_model(target.model, pixels, labels, seed=config.seed)]
    if config.suite != "paper":
        attack, epsilon = main_attack(config), config.epsilons[-1]
        checks.append(check_planted(target.model, pixels, attack, epsilon=epsilon, seed=config.seed))
    return {"checks": [asdict(check) for check in checks], "seconds": round(time.perf_counter() - started, 2)}


def checks_of_path(path: AttackPath, config: AttackConfig) -> list[dict[str, Any]]:
    """Return the checks of the paper's path; its images are those that a pass of its own found correct."""
    clean = [True] * len(path.correct)
    return [asdict(check) for check in check_path(path, clean, steps=config.steps, step_size=config.step_size)]


def checks_and_verdict(
    clean: Sequence[bool], attacks: Sequence[AttackResult], checks: Sequence[Check], classes: int
) -> tuple[tuple[Check, ...], Verdict]:
    """Return all checks, those of the attacks made (again) from the attacks as they are now, and the verdict."""
    fresh = {check.name: check for check in check_attacks(attacks, clean, classes)}
    found = (*(check for check in checks if check.name not in fresh), *fresh.values())
    return found, verdict(clean, attacks, found, classes)
