"""Checks and verdict of one result."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from attack.attacks.attack import Attempt
from attack.attacks.paper_path import AttackPath
from attack.checks.attacks import check_attempts, check_path
from attack.checks.check import Check
from attack.checks.model import check_model
from attack.checks.planted import check_planted
from attack.checks.verdict import Verdict, verdict
from attack.evaluation.images import ImageSet
from attack.evaluation.suite import AttackConfig, main_attack
from attack.evaluation.target import Subject

CHECKED_IMAGES = 32  # of the image set: the checks of the model are on few images


def checks_of_model(subject: Subject, images: ImageSet, config: AttackConfig) -> dict[str, Any]:
    """Return the part `checks` of an evaluation: the checks that need the model alone, and how long they took."""
    started = time.perf_counter()
    pixels, labels = (part[:CHECKED_IMAGES] for part in (images.pixels, images.labels))
    checks = [*check_model(subject.model, pixels, labels, seed=config.seed)]
    if config.suite != "paper":
        attack, epsilon = main_attack(config), config.epsilons[-1]
        checks.append(check_planted(subject.model, pixels, attack, epsilon=epsilon, seed=config.seed))
    return {"checks": [asdict(check) for check in checks], "seconds": round(time.perf_counter() - started, 2)}


def checks_of_path(path: AttackPath, config: AttackConfig) -> list[dict[str, Any]]:
    """Return the checks of the paper's path; its images are those that a pass of its own found correct."""
    clean = [True] * len(path.correct)
    return [asdict(check) for check in check_path(path, clean, steps=config.steps, step_size=config.step_size)]


def conclude(
    clean: Sequence[bool], attempts: Sequence[Attempt], checks: Sequence[Check], classes: int
) -> tuple[tuple[Check, ...], Verdict]:
    """Return all checks, those of the attempts made (again) from the attempts as they are now, and the verdict."""
    fresh = {check.name: check for check in check_attempts(attempts, clean, classes)}
    found = (*(check for check in checks if check.name not in fresh), *fresh.values())
    return found, verdict(clean, attempts, found, classes)
