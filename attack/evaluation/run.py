"""One model attacked by a suite; every finished attack is kept."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial as call_later
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attack.attacks.attack import Attacked, AttackResult, Loss, Norm, attack_loss
from attack.checks.check import Check
from attack.checks.robustness import worst_case
from attack.evaluation.images import ImageSet, ProgressReport, choose_images, classify_split, load_image_set
from attack.evaluation.judge import checks_and_verdict, checks_of_model, checks_of_path
from attack.evaluation.paper_path import attack_along_path, empty_section, path_attack, path_rows, path_section
from attack.evaluation.result import FORMAT_VERSION, attack_document, check_output, encode_result, read_attack
from attack.evaluation.suite import AttackConfig, Planned, plan_attacks
from attack.evaluation.target import Target, load_target, without_tf32
from stylize.files import write_atomically
from train import load_test_images
from train.records import describe_environment


class Evaluated(NamedTuple):
    """What became of B attacked images: still right, their mean loss before and after, and how far they moved."""

    robust: list[bool]
    first: float
    last: float
    distance: list[float]


def run_attack(
    planned: Planned,
    model: nn.Module,
    images: ImageSet,
    clean: Sequence[bool],
    earlier: Sequence[AttackResult],
    config: AttackConfig,
) -> AttackResult:
    """Attack the images that `planned` is for, and return what became of all N.

    Images that the model gets wrong as they are meet no attack. Others that an attack leaves out (see `Planned`) keep
    the state that the earlier attacks within its radius left them in, so that `robust` is the attack's own where it
    looked, and the worst case so far elsewhere; `settings` says how many images it looked at, and how many it met.
    """
    started = time.perf_counter()
    before = clean if planned.epsilon is None else worst_case(clean, earlier, planned.norm, planned.epsilon)
    looked_at = min(len(clean), config.strong_images) if planned.strong else len(clean)
    candidates = before if planned.survivors else clean
    rows = [index for index in range(looked_at) if candidates[index]]
    pixels, labels = images.pixels[rows], images.labels[rows]
    attacked = planned.attack(model, pixels, labels) if rows else Attacked(pixels, 0, 0)
    loss = planned.settings.get("loss", "ce")
    evaluated = evaluate_images(model, pixels, attacked.images, labels, planned.norm, config.batch_size, loss)
    robust, distance = _states(planned, before, clean, rows, evaluated)
    return AttackResult(
        planned.name,
        planned.kind,
        planned.norm,
        planned.epsilon,
        robust,
        distance,
        attacked.forwards + 2 * len(rows),
        attacked.backwards,
        round(time.perf_counter() - started, 2),
        {**planned.settings, "images": looked_at, "attacked": len(rows)},
        _losses(evaluated, attacked.last_losses) if rows and "loss" in planned.settings else {},
    )


def _states(
    planned: Planned, before: Sequence[bool], clean: Sequence[bool], rows: Sequence[int], evaluated: Evaluated
) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Return who withstood the attack and how far each of N images was moved."""
    robust = list(before)
    distance = [inf if planned.epsilon is None and right else 0.0 for right in clean]
    for index, withstood, moved in zip(rows, evaluated.robust, evaluated.distance, strict=True):
        robust[index] = withstood
        distance[index] = inf if planned.epsilon is None and withstood else moved
    return tuple(robust), tuple(distance)


def evaluate_images(
    model: nn.Module,
    images: Tensor,
    attacked: Tensor,
    labels: Tensor,
    norm: Norm,
    batch_size: int,
    loss: Loss = "ce",
) -> Evaluated:
    """Classify images (B, C, H, W) and their attacked versions afresh, in float32, and measure distances in float64."""
    robust, first, last = [], [], []
    batches = (torch.split(part, batch_size) for part in (images, attacked, labels))
    for before, after, truth in zip(*batches, strict=True):
        with torch.no_grad(), torch.autocast(before.device.type, enabled=False):
            start, end = model(before), model(after)
        first += attack_loss(loss, start, truth).tolist()
        last += attack_loss(loss, end, truth).tolist()
        robust += (end.argmax(1) == truth).tolist()
    moves = (attacked.double() - images.double()).flatten(1)
    distance = moves.abs().amax(1) if norm == "linf" else moves.norm(dim=1)
    count = max(len(labels), 1)
    return Evaluated(robust, sum(first) / count, sum(last) / count, distance.tolist())


def _losses(evaluated: Evaluated, last_losses: Tensor | None) -> dict[str, float]:
    """Summarise for checks: the attack's mean loss before and after, and how much of it the last steps still gave."""
    losses = {"first": evaluated.first, "last": evaluated.last}
    if last_losses is not None and last_losses.shape[1] > 1:
        means = last_losses.double().mean(0)
        change = (means[-1] - means[0]) / means[0].abs().clamp_min(1e-12)
        losses["change_last_10"] = float(change)
    return losses


class Partial:
    """Parts by name, each a JSON value, in a hidden file `.OUT.partial`; those of another evaluation are dropped."""

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = out.with_name(f".{out.name}.partial")
        self._identity = json.loads(json.dumps(identity))
        self._parts: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(document["parts"]) if document["identity"] == self._identity else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # none yet, or a file of something else: begin anew

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the part of this name, made and stored now where there is none."""
        if name not in self._parts:
            self._parts[name] = make()
            payload = json.dumps({"identity": self._identity, "parts": self._parts}, ensure_ascii=False)
            write_atomically(self.path, payload.encode())
        return self._parts[name]

    def remove(self) -> None:
        """Remove the file, when the result is written."""
        self.path.unlink(missing_ok=True)


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
    target = load_target(model, shards)
    partial = Partial(out, {"format_version": FORMAT_VERSION, **target.identity, "config": asdict(config)})
    with without_tf32():
        document = _evaluate(target, shards, config, partial, progress)
    payload = encode_result(document)
    write_atomically(out, payload)
    partial.remove()
    return dict(json.loads(payload))


def _evaluate(
    target: Target, shards: Path, config: AttackConfig, partial: Partial, progress: ProgressReport
) -> dict[str, Any]:
    """Run what is not yet in `partial`, and return the whole result."""
    plans = plan_attacks(config, target.classes)
    split = partial.once("split", lambda: _classify(target, shards, config, progress))
    keys = choose_images(shards, config.images, config.seed)
    images = load_image_set(shards, target.image_size, target.image_preset, keys, target.device)
    clean = [bool(split["correct"][key]) for key in keys]
    followed = partial.once("path", lambda: _follow_path(target, images, clean, config, progress))
    attacks = [path_attack(keys, clean, followed["section"])]
    for planned in _announced(plans, progress):
        attack = call_later(_attack, planned, target, images, clean, attacks, config)
        attacks.append(read_attack(partial.once(planned.title, attack)))
    checked = partial.once("checks", lambda: checks_of_model(target, images, config))
    kept = [Check(**check) for check in (*checked["checks"], *followed["checks"])]
    checks, verdict = checks_and_verdict(clean, attacks, kept, target.classes)
    seconds = split["seconds"] + checked["seconds"] + sum(attack.seconds for attack in attacks)
    return {
        "format_version": FORMAT_VERSION,
        **target.document,
        "protocol": _protocol(config),
        "clean": _clean(split["correct"]),
        "images": {"keys": list(keys), "labels": images.labels.tolist(), "correct": [int(right) for right in clean]},
        "verdict": asdict(verdict),
        "path": followed["section"],
        "attempts": [attack_document(attack) for attack in attacks],
        "checks": [asdict(check) for check in checks],
        **describe_environment(target.device),
        "forwards": sum(attack.forwards for attack in attacks),
        "backwards": sum(attack.backwards for attack in attacks),
        "seconds": round(seconds, 1),
    }


def _classify(target: Target, shards: Path, config: AttackConfig, progress: ProgressReport) -> dict[str, Any]:
    """Return by key which images of the test split are classified correctly, and how long that took."""
    started = time.perf_counter()
    tests = load_test_images(shards, target.image_size, target.image_preset)
    correct = classify_split(
        target.model, tests, device=target.device, batch_size=config.batch_size, total=target.test_images,
        progress=progress,
    )  # fmt: skip
    return {"correct": correct, "seconds": round(time.perf_counter() - started, 2)}


def _follow_path(
    target: Target, images: ImageSet, clean: Sequence[bool], config: AttackConfig, progress: ProgressReport
) -> dict[str, Any]:
    """Return the paper's path as a section of the result, and its checks."""
    started = time.perf_counter()
    rows, section = path_rows(clean), empty_section(config, len(clean))
    if not rows:
        return {"section": section, "checks": []}
    path = attack_along_path(target.model, images, rows, config, progress)
    section = path_section([images.keys[row] for row in rows], path, section, time.perf_counter() - started)
    return {"section": section, "checks": checks_of_path(path, config)}


def _attack(
    planned: Planned,
    target: Target,
    images: ImageSet,
    clean: Sequence[bool],
    earlier: Sequence[AttackResult],
    config: AttackConfig,
) -> dict[str, Any]:
    return attack_document(run_attack(planned, target.model, images, clean, earlier, config))


def _announced(plans: Sequence[Planned], progress: ProgressReport) -> Iterator[Planned]:
    """Yield the attacks, and tell which one runs."""
    for number, planned in enumerate(plans):
        progress(f"Attacks: {planned.title}", number, len(plans))
        yield planned
    if plans:
        progress("Attacks", len(plans), len(plans))


def _protocol(config: AttackConfig) -> dict[str, Any]:
    """Return what was asked for; the section `path` has its own numbers, and each attack its settings."""
    names = ("suite", "images", "strong_images", "epsilons", "batch_size", "seed")
    return {name: getattr(config, name) for name in names}


def _clean(correct: Mapping[str, bool]) -> dict[str, float | int]:
    """Accuracy over the whole test split."""
    right = sum(correct.values())
    return {"accuracy": right / len(correct), "correct": right, "images": len(correct)}
