"""Results as RobustBench's `model_info` files (Croce et al. 2021)."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attack.attacks.attack import AttackResult, Norm, epsilon_name
from attack.checks.robustness import Cell, looked_at
from attack.checks.verdict import Verdict
from attack.evaluation.result import Result, check_output, read_result
from attack.evaluation.statistics import share
from stylize.console import InputError
from stylize.files import write_atomically

THREATS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
BY_HAND = ("link", "name", "authors", "additional_data", "venue", "reported")  # what a result does not know


def export_results(results: Sequence[Path], out: Path, dataset: str | None = None) -> list[Path]:
    """Write a file of RobustBench's fields for every result and radius that AutoAttack met; return their paths.

    They are OUT/DATASET/Linf/NAME-8_of_255.json, NAME being the result's, and `dataset` the shards' name by default.
    `autoattack_acc` is what AutoAttack left, after the attacks before it; `external` what all attacks left, where that
    is less; `unreliable` is where masking is suspected. What a result does not know is null, to be filled by hand.

    Raises:
        InputError: a result is missing, damaged or without AutoAttack, or two have one name; nothing is written then.
    """
    files: dict[Path, dict[str, Any]] = {}
    for result in map(read_result, results):
        name = dataset or re.sub(r"[^\w.-]+", "-", result.shards_name).strip("-.") or "data"
        for path, document in _documents(result, out / name, name):
            if path in files:
                raise InputError(f"Two results would be written to {path}: export them to a folder each.")
            files[path] = document
    for path, document in files.items():
        check_output(path)
        write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    return list(files)


def _documents(result: Result, folder: Path, dataset: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    found = 0
    for cell, verdict in zip(result.cells, result.verdicts, strict=False):
        name = epsilon_name(cell.epsilon) if cell.norm == "linf" else f"{cell.epsilon:.4g}"
        for attack in result.attacks:
            if (attack.name, attack.norm, attack.epsilon) == ("autoattack", cell.norm, cell.epsilon):
                path = folder / THREATS[cell.norm] / f"{result.path.stem}-{name.replace('/', '_of_')}.json"
                yield path, _fields(result, cell, verdict, name, attack, dataset)
                found += 1
    if not found:
        raise InputError(f"{result.path} has no AutoAttack, which RobustBench asks for: attack with --suite full.")


def _fields(
    result: Result, cell: Cell, verdict: Verdict, epsilon: str, attack: AttackResult, dataset: str
) -> dict[str, Any]:
    left = share(attack.robust[: looked_at(attack)]).mean
    clean, worst, images = result.document["clean"], share(cell.robust), len(cell.robust)
    document = dict.fromkeys(BY_HAND) | {
        "number_forward_passes": 1,
        "dataset": dataset,
        "architecture": result.arch,
        "eps": epsilon,
        "clean_acc": f"{100 * clean['accuracy']:.2f}",
        "autoattack_acc": f"{100 * left:.2f}",
        "unreliable": verdict.word == "masking suspected",
        "footnote": f"Clean accuracy of {clean['images']} test images, robust accuracy of {images} of them, "
        f"95 % interval {100 * worst.low:.2f} to {100 * worst.high:.2f}; verdict of the evaluation: {verdict.word}; "
        f"AutoAttack's version: {attack.settings.get('version', 'standard')}.",
    }
    return document | ({"external": f"{100 * worst.mean:.2f}"} if worst.mean < left else {})
