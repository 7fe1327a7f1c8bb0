"""What pairing gains from each kind of stylized copies, as Markdown and JSON: a line a kind, against the default's.

python stylizations.py RESULTS SHAPE AGREEMENT.json --out FOLDER
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from studies.claims.answer import Answer, Claim, Model, answer, read_models, worst

DEFAULT, CONTROL = "one", "normal"
MEASURES = ("clean", "weak", "strong", "shape")
SMALL = 1 / 255


def differences(models: Mapping[str, list[Model]]) -> list[Answer]:
    """Return each kind's difference from the default in every measure; `supported` is better, `refuted` worse."""
    claims = [
        Claim(name, "", name, DEFAULT, measure, 0)
        for name in models
        if name not in (DEFAULT, CONTROL)
        for measure in MEASURES
    ]
    return [answer(claim, models[claim.first], models[DEFAULT]) for claim in claims]


def table(models: Mapping[str, list[Model]], found: list[Answer], agreement: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line a kind: what its models reach, in per cent, and the differences from the default, in points."""
    head = ("copies", "seeds", "agree", "clean", "robust 1/255", "robust 2/255", *(f"Δ {name}" for name in MEASURES))
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    by_name = {(each.claim, each.measure): each for each in found}
    for name, own in models.items():
        agreeing = f"{100 * agreement[name]['agreement']:.0f}" if name in agreement else ""
        reached = [np.mean([model.result.document["clean"]["accuracy"] for model in own])]
        reached += [np.mean([worst(model, epsilon) for model in own]) for epsilon in (SMALL, 2 * SMALL)]
        apart = [_cell(by_name.get((name, measure))) for measure in MEASURES]
        cells = [name, str(len(own)), agreeing, *(f"{100 * share:.1f}" for share in reached), *apart]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(each: Answer | None) -> str:
    """Return a difference and its interval, bold where that excludes 0."""
    if each is None:
        return ""
    text = f"{each.difference:+.1f} [{each.low:+.1f}, {each.high:+.1f}]"
    return text if each.word == "open" else f"**{text}**"


def main(results: Path, shape: Path, agreement: Path, out: Annotated[Path, typer.Option()]) -> None:
    """Write `stylizations.md` and `stylizations.json`."""
    models = read_models(results, shape)
    found = differences(models)
    out.mkdir(parents=True, exist_ok=True)
    (out / "stylizations.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", "utf-8")
    (out / "stylizations.md").write_text(table(models, found, json.loads(agreement.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    typer.run(main)
