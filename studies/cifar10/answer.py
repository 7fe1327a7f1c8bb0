"""The study's answer from `results/`: every claim of README.md as a table and as JSON, and what each method reaches.

    python answer.py results --out answer

The three primary claims share one correction (Holm); the others have 95 % intervals of their own.
"""

import json
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from attack import worst_case
from attack.evaluation.statistics import compare_family
from studies.claims.answer import CLAIMS, Answer, Model, answer, judge, models_table, read_model, table, values

PRIMARY = ("C1", "C3", "K1")


def read_cells(results: Path) -> dict[str, list[Model]]:
    """Read all finished cells, `NAME-SEED.tar.xz`, by NAME."""
    found: dict[str, list[Model]] = {}
    for path in sorted(results.glob("*.tar.xz")):
        key = path.name.removesuffix(".tar.xz")
        with TemporaryDirectory() as folder, tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
            cell = read_model(Path(folder, key, "attack.json"), Path(folder, key, "shape.json"))
        found.setdefault(key.rpartition("-")[0], []).append(cell)
    return found


def answers(models: dict[str, list[Model]]) -> list[Answer]:
    """Weigh every claim that has models on both sides, the primary ones first."""
    claims = [claim for claim in CLAIMS if claim.measure != "weak" and claim.first in models and claim.second in models]
    first = [claim for claim in claims if claim.name in PRIMARY]
    measured = [{name: values("strong", models[name], ()) for name in (each.first, each.second)} for each in first]
    found = []
    for claim, (difference,) in zip(first, compare_family(measured), strict=True):
        mean, low, high = (100 * float(number) for number in (difference.mean, difference.low, difference.high))
        plain = answer(claim, models[claim.first], models[claim.second])
        found.append(replace(plain, difference=mean, low=low, high=high, word=judge(claim, low, high)))
    return found + [
        answer(claim, models[claim.first], models[claim.second]) for claim in claims if claim.name not in PRIMARY
    ]


def autoattack_share(models: dict[str, list[Model]]) -> str:
    """Return as Markdown how many images AutoAttack broke that every other attack had left, by method and radius."""
    lines = ["| models | L∞ | left by the others | broken by AutoAttack |", "|" + " --- |" * 4]
    for name, own in models.items():
        for epsilon in own[0].result.epsilons:
            left, broken = np.sum([broken_last(model, epsilon) for model in own], axis=0)
            lines.append(f"| {name} | {255 * epsilon:g}/255 | {left} | {broken} |")
    return "\n".join(lines) + "\n"


def broken_last(model: Model, epsilon: float) -> tuple[int, int]:
    """Return how many images all attacks but AutoAttack left within an L∞ radius, and how many of them it broke."""
    result = model.result
    others = [attack for attack in result.attacks if attack.name != "autoattack"]
    left = sum(worst_case(result.clean, others, "linf", epsilon))
    return left, left - sum(worst_case(result.clean, result.attacks, "linf", epsilon))


def main(results: Path, out: Annotated[Path, typer.Option()]) -> None:
    """Write `answer.md`, `answer.json`, `models.md` and `autoattack.md`."""
    models = read_cells(results)
    found = answers(models)
    out.mkdir(parents=True, exist_ok=True)
    (out / "answer.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")
    (out / "answer.md").write_text(table(found), encoding="utf-8")
    (out / "models.md").write_text(models_table(models), encoding="utf-8")
    (out / "autoattack.md").write_text(autoattack_share(models), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
