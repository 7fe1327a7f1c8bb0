"""One model attacked by a suite and checked; every finished attack is kept."""

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial as call_later
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attack.attacks import OWN_NORMS, Attacked, AttackResult, Averaged, Loss, Norm, attack_loss, misclassified, size
from attack.attacks.own import WithGradientOf
from attack.attacks.paper_path import AttackPath
from attack.checks import Check
from attack.checks.attacks import check_errors, check_path
from attack.checks.model import check_model
from attack.checks.planted import check_planted
from attack.checks.robustness import worst_case
from attack.checks.verdict import evaluate
from attack.evaluation import AttackConfig, with_batch_size
from attack.evaluation.paper_path import attack_along_path, path_attack, path_section
from attack.evaluation.result import (
    FORMAT_VERSION,
    Partial,
    attack_document,
    attacked_pictures,
    check_output,
    encode_result,
    read_attack,
)
from attack.evaluation.suite import Planned, main_attack, plan_attacks
from attack.evaluation.target import ImageSet, Target, answers, choose_images, load_image_set, open_model, without_tf32
from stylize.console import InputError, Show, silent
from stylize.console.references import load_reference
from stylize.files import file_sha256, write_atomically
from train.models import call_reference
from train.records import describe_environment

CHECKED_IMAGES = 64  # of the image set: the checks of the model are on few images, but enough to see a share of them


def attack_model(
    model: str | Path | nn.Module,
    shards: Path,
    out: Path,
    config: AttackConfig = AttackConfig(),  # noqa: B008 (frozen)
    *,
    keep_parts: bool = False,
    progress: Show = silent,
) -> dict[str, Any]:
    """Evaluate a trained model on the test split of a shard folder, write the result to `out` and return it.

    Every finished part is kept beside `out` until the result is written, so that the same call goes on after an
    interruption. docs/evaluation.md says what each number of the result means.

    Args:
        model: a file that `train run` wrote, its folder, `package.module:function`, or a network (see `open_model`).
        shards: the shard folder; its class names must be the model's.
        out: the JSON file to write.
        config: which attacks, on how many images.
        keep_parts: leave the finished parts there, so that the same call makes the result again at once.
        progress: called with (what is being done, how much of it is done, how much there is).

    Raises:
        InputError: a file is missing or damaged, or the class names differ.
    """
    check_output(out)
    opened = open_model(model, shards)
    target, config = _stand_in(opened, config), with_batch_size(config, opened.card.image_size)
    own = [*config.attack, *config.loss, *([config.surrogate] if config.surrogate else [])]
    modules = [sys.modules[load_reference(name, "Function").__module__] for name in own]
    files = [getattr(module, "__file__", None) for module in modules]  # built-in ones have none
    code = [file_sha256(Path(file)) for file in files if file]
    identity = {"format_version": FORMAT_VERSION, **target.identity, "config": asdict(config), "code": code}
    partial = Partial(out, identity)
    with without_tf32():
        document = _evaluate(target, config, partial, progress)
    payload = encode_result(document)
    write_atomically(out, payload)
    if not keep_parts:
        partial.remove()
    return dict(json.loads(payload))


def _stand_in(target: Target, config: AttackConfig) -> Target:
    """Return a target with the gradient of a surrogate, and averaged over draws, where the options say so."""
    network, untouched = target.network, target.untouched
    if config.surrogate:
        network = WithGradientOf(network, call_reference(config.surrogate).to(target.device).requires_grad_(False))
    if config.eot > 1:
        network = Averaged(network, config.eot)
        untouched = untouched and Averaged(untouched, config.eot)
    return replace(target, network=network.eval(), untouched=untouched and untouched.eval())


def _evaluate(target: Target, config: AttackConfig, partial: Partial, progress: Show) -> dict[str, Any]:
    """Run what is not yet in `partial`, and return the whole result."""
    plans = plan_attacks(config, target.classes)
    split = partial.once("split", lambda: _classify(target, config, progress))
    keys = choose_images(target.shards, config.images, config.seed)
    images = load_image_set(target.shards, *target.sees, keys, target.device)
    clean = [bool(split["correct"][key]) for key in keys]
    path = partial.once("path", lambda: _follow_path(target, images, clean, config, progress))
    attacks = [path_attack(keys, clean, path["section"])]
    for number, planned in enumerate(plans):
        spent, left = _passes(attacks), _passes_left(plans[number:], clean, attacks, config)
        progress(f"Attacks: {number + 1} of {len(plans)}, {planned.title}, passes", spent, spent + left)
        run = call_later(run_attack, planned, target, images, clean, attacks, config)
        attacks.append(read_attack(partial.once(planned.title, lambda run=run: attack_document(run()))))  # type: ignore[misc]
    if plans:
        progress("Attacks", _passes(attacks), _passes(attacks))
    checked = partial.once("checks", lambda: _check_target(target, images, config))
    gallery = partial.once("gallery", lambda: _pictures(target, images, clean, config))
    known = [Check(**check) for check in (*checked["checks"], *path["checks"])]
    checks, verdicts = evaluate(clean, attacks, known, target.classes)
    right = sum(split["correct"].values())
    known_images = {"keys": list(keys), "labels": images.labels.tolist(), "sha256": images.sha256}
    asked = {
        name: getattr(config, name)
        for name in ("suite", "images", "epsilons", "norm", "eot", "surrogate", "batch_size", "seed")
    }
    return {
        "format_version": FORMAT_VERSION,
        **target.document,
        "protocol": {**asked, "strong_images": config.strong_images or config.images},
        "clean": {"accuracy": right / target.test_images, "correct": right, "images": target.test_images},
        "images": {**known_images, "correct": [int(one) for one in clean]},
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "path": path["section"],
        "attacks": [attack_document(attack) for attack in attacks],
        "checks": [asdict(check) for check in checks],
        "gallery": gallery,
        **describe_environment(target.device),
        "forwards": sum(attack.forwards for attack in attacks),
        "backwards": sum(attack.backwards for attack in attacks),
        "seconds": round(split["seconds"] + checked["seconds"] + sum(attack.seconds for attack in attacks), 1),
    }


def _classify(target: Target, config: AttackConfig, progress: Show) -> dict[str, Any]:
    """Return by key which images of the test split are classified correctly, and how long that took."""
    started = time.perf_counter()
    correct = target.classify(config.batch_size, progress)
    return {"correct": correct, "seconds": round(time.perf_counter() - started, 2)}


@contextmanager
def _errors_kept(errors: list[str]) -> Iterator[None]:
    """Go on after an error of a foreign model, and keep it: no reason to lose the attacks that were made."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")


def _pictures(target: Target, images: ImageSet, clean: Sequence[bool], config: AttackConfig) -> list[dict[str, Any]]:
    with _errors_kept([]):  # a check tells of them
        return attacked_pictures(target, images, clean, config)
    return []


def _follow_path(
    target: Target, images: ImageSet, clean: Sequence[bool], config: AttackConfig, progress: Show
) -> dict[str, Any]:
    """Return the paper's path as a section of the result, and its checks."""
    started = time.perf_counter()
    rows = [index for index, right in enumerate(clean) if right]
    path: AttackPath | None = None
    found: Iterable[Check] = ()
    errors: list[str] = []
    with _errors_kept(errors):
        if rows:
            path = attack_along_path(target.network, images, rows, config, progress)
            found = check_path(path, steps=config.steps, step_size=config.step_size)
    if errors:
        rows, path, found = [], None, (check_errors({"paper-path": errors[0]}),)
    section = path_section([images.keys[row] for row in rows], path, config, len(clean), time.perf_counter() - started)
    return {"section": section, "checks": [asdict(check) for check in found]}


def _met(
    planned: Planned, clean: Sequence[bool], earlier: Sequence[AttackResult], config: AttackConfig
) -> tuple[Sequence[bool], int, list[int]]:
    """Return which images withstood earlier attacks, how many from the first an attack is for, and which it meets."""
    before = clean if planned.epsilon is None else worst_case(clean, earlier, planned.norm, planned.epsilon)
    looked_at = min(len(clean), config.strong_images or len(clean)) if planned.strong else len(clean)
    candidates = before if planned.survivors else clean
    return before, looked_at, [index for index in range(looked_at) if candidates[index]]


def _passes(attacks: Sequence[AttackResult]) -> int:
    """Return what attacks have cost, in forward passes of an image; a backward pass counts as two."""
    return sum(attack.forwards + 2 * attack.backwards for attack in attacks)


def _passes_left(
    plans: Sequence[Planned], clean: Sequence[bool], attacks: Sequence[AttackResult], config: AttackConfig
) -> int:
    """Return what attacks to come will cost if all images withstand that have withstood so far."""
    return sum(planned.passes * len(_met(planned, clean, attacks, config)[2]) for planned in plans)


def _check_target(target: Target, images: ImageSet, config: AttackConfig) -> dict[str, Any]:
    """Return the checks that need the model alone, and how long they took."""
    started = time.perf_counter()
    pixels, labels = (part[:CHECKED_IMAGES] for part in (images.pixels, images.labels))
    checks = [*check_model(target.network, pixels, labels, seed=config.seed)]
    if config.suite != "paper":
        for norm, epsilon in (radius for radius in config.radii if radius[0] in OWN_NORMS):
            attack = main_attack(config, norm, epsilon)
            checks.append(check_planted(target.network, pixels, attack, epsilon=epsilon, norm=norm, seed=config.seed))
    return {"checks": [asdict(check) for check in checks], "seconds": round(time.perf_counter() - started, 2)}


def run_attack(
    planned: Planned,
    target: Target,
    images: ImageSet,
    clean: Sequence[bool],
    earlier: Sequence[AttackResult],
    config: AttackConfig,
) -> AttackResult:
    """Attack the images that `planned` is for, and return what became of all N.

    Images that the model gets wrong as they are meet no attack. Others that an attack leaves out (see `Planned`) keep
    the state that the earlier attacks within its radius left them in, so that `robust` is the attack's own where it
    looked, and the worst case so far elsewhere; `settings` says how many images it looked at, and how many it met.

    An image withstands where the model and one like it that saw no image yet (`right_afresh`) both are right, because
    a model that remembers what it saw can answer from memory. `settings` says on how many images the two differ.
    """
    started = time.perf_counter()
    before, looked_at, rows = _met(planned, clean, earlier, config)
    settings: dict[str, Any] = {**planned.settings, "images": looked_at, "attacked": len(rows)}
    settings |= {"eot": config.eot} if config.eot > 1 else {}
    attacked, found = _attack(planned, target, images.pixels[rows], images.labels[rows], settings, config.batch_size)
    robust = list(before)
    distance = [math.inf if planned.epsilon is None and right else 0.0 for right in clean]
    for index, withstood, moved in zip(rows, found.robust, found.distance, strict=True):
        robust[index] = withstood
        distance[index] = math.inf if planned.epsilon is None and withstood else moved
    forwards = attacked.forwards + (3 if "loss" in planned.settings else 2) * len(rows)
    losses = _losses(found, attacked.last_losses) if attacked.forwards and "loss" in planned.settings else {}
    return AttackResult(
        planned.name, planned.kind, planned.norm, planned.epsilon, tuple(robust), tuple(distance),
        forwards, attacked.backwards, round(time.perf_counter() - started, 2), settings, losses,
    )  # fmt: skip


def _attack(
    planned: Planned, target: Target, pixels: Tensor, labels: Tensor, settings: dict[str, Any], batch_size: int
) -> tuple[Attacked, "Evaluated"]:
    """Attack images and see what became of them; enter into `settings` what the copy says, or what went wrong."""
    errors: list[str] = []
    with _errors_kept(errors):
        if not len(labels):
            return Attacked(pixels, 0, 0), Evaluated([], 0.0, 0.0, [])
        attacked = planned.attack(target.network, pixels, labels)
        loss = planned.settings.get("loss")
        settings |= {"outside": attacked.outside} if attacked.outside else {}
        found = evaluate_images(target.network, pixels, attacked.images, labels, planned.norm, batch_size, loss)
        try:
            again = target.right_afresh(attacked.images, labels, batch_size)
        except InputError as error:
            settings["copy_error"] = str(error)
            return attacked, found
        settings["copy_differs"] = sum(one != other for one, other in zip(found.robust, again, strict=True))
        return attacked, found._replace(robust=[one and other for one, other in zip(found.robust, again, strict=True)])
    settings["error"] = errors[0]
    return Attacked(pixels, 0, 0), Evaluated([True] * len(labels), 0.0, 0.0, [0.0] * len(labels))


class Evaluated(NamedTuple):
    """What became of B attacked images: still right, their mean loss before and after, and how far they moved."""

    robust: list[bool]
    first: float
    last: float
    distance: list[float]


def evaluate_images(
    model: nn.Module,
    images: Tensor,
    attacked: Tensor,
    labels: Tensor,
    norm: Norm,
    batch_size: int,
    loss: Loss | None = None,
) -> Evaluated:
    """Classify attacked images (B, C, H, W) afresh, in float32, and measure their distances in float64.

    With a loss, that of the images as they were is computed too; without, both mean losses are 0.
    """
    end, first, last = answers(model, attacked, batch_size), 0.0, 0.0
    if loss:
        start = answers(model, images, batch_size)
        first, last = (float(attack_loss(loss, logits, labels).double().mean()) for logits in (start, end))
    moves = attacked.double() - images.double()
    return Evaluated((~misclassified(end, labels)).tolist(), first, last, size(moves, norm).tolist())


def _losses(found: Evaluated, last_losses: Tensor | None) -> dict[str, float]:
    """Summarise for checks: the attack's mean loss before and after, and how much of it the last steps still gave."""
    losses = {"first": found.first, "last": found.last}
    if last_losses is not None and last_losses.shape[1] > 1:
        means = last_losses.double().mean(0)
        losses["change_last_10"] = float((means[-1] - means[0]) / means[0].abs().clamp_min(1e-12))
    return losses
