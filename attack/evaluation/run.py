"""Evaluate one model: the paper's path, attacks, checks and a verdict, all in one JSON file."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial as call_later
from pathlib import Path
from typing import Any

from torch import nn

from attack.attacks.attempt import Attempt
from attack.checks.check import Check
from attack.evaluation.attempts import run_attempt
from attack.evaluation.config import AttackConfig
from attack.evaluation.documents import attempt_document, read_attempt
from attack.evaluation.images import ImageSet, ProgressReport, choose_images, classify_split, load_image_set
from attack.evaluation.judgement import checks_of_model, checks_of_path, conclude
from attack.evaluation.partial import Partial
from attack.evaluation.predictions import without_tf32
from attack.evaluation.results import FORMAT_VERSION, check_output, encode_result
from attack.evaluation.subject import Subject, load_subject
from attack.evaluation.suite import Planned, plan_attacks
from attack.evaluation.walk import empty_section, path_attempt, path_section, walk, walkers
from stylize.atomic import write_atomically
from train import load_test_images
from train.environment import describe_environment


def silent(stage: str, done: int, total: int) -> None:
    """Show no progress."""


def attack_model(
    model: str | Path | nn.Module,
    shards: Path,
    out: Path,
    config: AttackConfig = AttackConfig(),  # noqa: B008 (frozen)
    *,
    progress: ProgressReport = silent,
) -> dict[str, Any]:
    """Evaluate a trained model on the test split of a shard folder, write the result to `out` and return it.

    Every finished part is kept beside `out` until the result is written, so that the same call goes on after an
    interruption. docs/evaluation.md says what each number of the result means.

    Args:
        model: a file that `train run` wrote, `package.module:function`, or a network (see `open_model`).
        shards: the shard folder; its class names must be the model's.
        out: the JSON file to write.
        config: which attacks, on how many images.
        progress: called with (what is being done, how much of it is done, how much there is).

    Raises:
        InputError: a file is missing or damaged, or the class names differ.
    """
    check_output(out)
    subject = load_subject(model, shards)
    partial = Partial(out, {"format_version": FORMAT_VERSION, **subject.identity, "config": asdict(config)})
    with without_tf32():
        document = _evaluate(subject, shards, config, partial, progress)
    payload = encode_result(document)
    write_atomically(out, payload)
    partial.remove()
    return dict(json.loads(payload))


def _evaluate(
    subject: Subject, shards: Path, config: AttackConfig, partial: Partial, progress: ProgressReport
) -> dict[str, Any]:
    """Run what is not yet in `partial`, and return the whole result."""
    plans = plan_attacks(config, subject.classes)
    split = partial.once("split", lambda: _classify(subject, shards, config, progress))
    keys = choose_images(shards, config.images, config.seed)
    images = load_image_set(shards, subject.image_size, subject.image_preset, keys, subject.device)
    clean = [bool(split["correct"][key]) for key in keys]
    walked = partial.once("path", lambda: _walk(subject, images, clean, config, progress))
    attempts = [path_attempt(keys, clean, walked["section"])]
    for planned in _announced(plans, progress):
        attack = call_later(_attempt, planned, subject, images, clean, attempts, config)
        attempts.append(read_attempt(partial.once(planned.title, attack)))
    checked = partial.once("checks", lambda: checks_of_model(subject, images, config))
    kept = [Check(**check) for check in (*checked["checks"], *walked["checks"])]
    checks, verdict = conclude(clean, attempts, kept, subject.classes)
    seconds = split["seconds"] + checked["seconds"] + sum(attempt.seconds for attempt in attempts)
    return {
        "format_version": FORMAT_VERSION,
        **subject.document,
        "protocol": _protocol(config),
        "clean": _clean(split["correct"]),
        "images": {"keys": list(keys), "labels": images.labels.tolist(), "correct": [int(right) for right in clean]},
        "verdict": asdict(verdict),
        "path": walked["section"],
        "attempts": [attempt_document(attempt) for attempt in attempts],
        "checks": [asdict(check) for check in checks],
        **describe_environment(subject.device),
        "forwards": sum(attempt.forwards for attempt in attempts),
        "backwards": sum(attempt.backwards for attempt in attempts),
        "seconds": round(seconds, 1),
    }


def _classify(subject: Subject, shards: Path, config: AttackConfig, progress: ProgressReport) -> dict[str, Any]:
    """Return by key which images of the test split are classified correctly, and how long that took."""
    started = time.perf_counter()
    tests = load_test_images(shards, subject.image_size, subject.image_preset)
    correct = classify_split(
        subject.model, tests, device=subject.device, batch_size=config.batch_size, total=subject.test_images,
        progress=progress,
    )  # fmt: skip
    return {"correct": correct, "seconds": round(time.perf_counter() - started, 2)}


def _walk(
    subject: Subject, images: ImageSet, clean: Sequence[bool], config: AttackConfig, progress: ProgressReport
) -> dict[str, Any]:
    """Return the paper's path as a section of the result, and its checks."""
    started = time.perf_counter()
    rows, section = walkers(clean), empty_section(config, len(clean))
    if not rows:
        return {"section": section, "checks": []}
    path = walk(subject.model, images, rows, config, progress)
    section = path_section([images.keys[row] for row in rows], path, section, time.perf_counter() - started)
    return {"section": section, "checks": checks_of_path(path, config)}


def _attempt(
    planned: Planned,
    subject: Subject,
    images: ImageSet,
    clean: Sequence[bool],
    earlier: Sequence[Attempt],
    config: AttackConfig,
) -> dict[str, Any]:
    return attempt_document(run_attempt(planned, subject.model, images, clean, earlier, config))


def _announced(plans: Sequence[Planned], progress: ProgressReport) -> Iterator[Planned]:
    """Yield the attacks, and tell which one runs."""
    for number, planned in enumerate(plans):
        progress(f"Attacks: {planned.title}", number, len(plans))
        yield planned
    if plans:
        progress("Attacks", len(plans), len(plans))


def _protocol(config: AttackConfig) -> dict[str, Any]:
    """Return what was asked for; the section `path` has its own numbers, and each attempt its settings."""
    names = ("suite", "images", "strong_images", "epsilons", "batch_size", "seed")
    return {name: getattr(config, name) for name in names}


def _clean(correct: Mapping[str, bool]) -> dict[str, float | int]:
    """Accuracy over the whole test split."""
    right = sum(correct.values())
    return {"accuracy": right / len(correct), "correct": right, "images": len(correct)}
