"""The study's answer from `results/`: claims, tables, the figure, and a note for authors of papers.

    python -m studies.cifar10.answer studies/cifar10/results --out answer

The three primary claims share one correction (Holm); the others have 95 % intervals of their own. A claim is weighed
over the seeds that both of its sides have.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from attack import worst_case
from attack.attacks import Norm, radius_name
from attack.checks.robustness import radii
from attack.evaluation.shape_bias import summarise
from attack.evaluation.statistics import compare_family
from attack.report.figures import figure_bytes, panel_figure, security_panel
from attack.report.groups import Entry, Group
from studies.cifar10.cells import Cell, read_cells
from studies.claims import corruptions
from studies.claims.answer import CLAIMS, Answer, Claim, Model, answer, judge, models_table, table, values

PRIMARY = {"C1": 3.1, "C3": 2.1, "K1": 2.2}  # with the half-widths in points that README.md expects of eight seeds
YARDSTICKS = ("pairing-random", "augmix", "nfgsm", "nfgsm_pairing")
CUES = {"by shape": "shape_accuracy", "by texture": "texture_accuracy", "shape bias": "shape_bias"}
RANKS = ("shape_reciprocal_rank", "texture_reciprocal_rank")
NOTE = """\
An independent test of stylized pairing (Guan et al. 2022) on CIFAR-10: a network of 0.5 million parameters, trained
from scratch on 49,000 images of 32 px with copies that AdaIN made at 96 px. Robust accuracy is over the same {images}
test images, clean errors counted, after PGD, minimal-norm attacks, Square and AutoAttack, each image meeting all until
one breaks it. Intervals are bootstrapped over images and training seeds; these hold together with 95 % (Holm). To cite:
`CITATION.cff`.

{table}"""


def recognised(cells: Sequence[Cell]) -> set[str]:
    """Return the keys of the cue-conflict images whose originals all models of normal training recognise.

    Without such a model they are all images.
    """
    every = {each.key for cell in cells for each in cell.decisions}
    known = [{each.key for each in cell.decisions if each.counted} for cell in cells if cell.method == "normal"]
    return every.intersection(*known)


def by_method(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each method."""
    return {method: [cell for cell in cells if cell.method == method] for method in sorted({c.method for c in cells})}


def models(cells: Sequence[Cell], keys: set[str]) -> list[Model]:
    """Return what claims look at: attacks, and decisions on the cue-conflict images of these keys."""
    shapes = [[each.predicted == each.shape for each in cell.decisions if each.key in keys] for cell in cells]
    return [Model(cell.result, np.array(shape, float)) for cell, shape in zip(cells, shapes, strict=True)]


def sides(cells: Sequence[Cell]) -> dict[Claim, tuple[list[Model], list[Model]]]:
    """Return the models on both sides of each claim, of the seeds that both have; claims without any are left out."""
    keys = recognised(cells)
    found: dict[Claim, tuple[list[Model], list[Model]]] = {}
    for claim in CLAIMS:
        own = [{cell.seed: cell for cell in cells if cell.method == name} for name in (claim.first, claim.second)]
        seeds = sorted(own[0].keys() & own[1].keys())
        if seeds and claim.measure != "weak":
            first, second = (models([each[seed] for seed in seeds], keys) for each in own)
            found[claim] = first, second
    return found


def answers(cells: Sequence[Cell]) -> list[Answer]:
    """Weigh every claim that has models, the primary ones first."""
    compared = sides(cells)
    primary = [claim for claim in compared if claim.name in PRIMARY]
    measured = [
        {str(side): values(claim.measure, own, ()) for side, own in enumerate(compared[claim])} for claim in primary
    ]
    found = []
    for claim, (difference,) in zip(primary, compare_family(measured), strict=True):
        mean, low, high = (100 * float(number) for number in (difference.mean, difference.low, difference.high))
        plain = answer(claim, *compared[claim])
        found.append(replace(plain, difference=mean, low=low, high=high, word=judge(claim, low, high)))
    return found + [answer(claim, *compared[claim]) for claim in compared if claim not in primary]


def rows(*head: str, lines: Sequence[Sequence[object]]) -> str:
    """Return a table as Markdown."""
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in (head, ["---"] * len(head), *lines))


def half_widths(found: Sequence[Answer]) -> str:
    """Return as Markdown the half-widths that the primary claims' intervals have, and those that were expected."""
    lines = [
        (each.claim, each.models[0], each.images, f"± {(each.high - each.low) / 2:.1f}", f"± {PRIMARY[each.claim]}")
        for each in found
        if each.claim in PRIMARY
    ]
    return rows("", "seeds", "images", "half-width, points", "expected of 8 seeds", lines=lines)


def autoattack_share(cells: Sequence[Cell]) -> str:
    """Return as Markdown how many images AutoAttack broke that every other attack had left, by method and radius."""
    lines = []
    for method, own in by_method(cells).items():
        for radius in radii([attack for cell in own for attack in cell.result.attacks]):
            met = [cell for cell in own if radius in radii(cell.result.attacks)]
            left, broken = np.sum([broken_last(cell, *radius) for cell in met], axis=0)
            lines.append((method, len(met), radius_name(*radius), left, broken))
    return rows("models", "seeds", "radius", "left by the others", "broken by AutoAttack", lines=lines)


def broken_last(cell: Cell, norm: Norm, epsilon: float) -> tuple[int, int]:
    """Return how many images all attacks but AutoAttack left within a radius, and how many of them it broke."""
    result = cell.result
    others = [attack for attack in result.attacks if attack.name != "autoattack"]
    left = sum(worst_case(result.clean, others, norm, epsilon))
    return left, left - sum(worst_case(result.clean, result.attacks, norm, epsilon))


def shape_table(cells: Sequence[Cell]) -> str:
    """Return as Markdown the means over seeds of decisions by either cue, in per cent, and of both reciprocal ranks."""
    keys, lines = recognised(cells), []
    for method, own in by_method(cells).items():
        chosen = [[replace(each, counted=True) for each in cell.decisions if each.key in keys] for cell in own]
        found = [summarise(each) for each in chosen]
        shares = [[one[name]["share"] for one in found if one[name]["n"]] for name in CUES.values()]
        ranks = [np.mean([one[name]["mean"] for one in found]) for name in RANKS]
        cues = [f"{100 * np.mean(share):.1f}" if share else "" for share in shares]
        lines.append((method, len(own), len(keys), *cues, *(f"{rank:.3f}" for rank in ranks)))
    return rows("models", "seeds", "images", *CUES, "reciprocal rank of the shape", "of the texture", lines=lines)


def seeds_table(cells: Sequence[Cell]) -> str:
    """Return as Markdown how each seed's cells were made: number type, hardware, digests of shards and of pixels."""
    lines = []
    for seed in sorted({cell.seed for cell in cells}):
        own = [cell for cell in cells if cell.seed == seed]
        made = {f"{cell.training['hardware']['device']}, {cell.training['hardware']['cpu']}" for cell in own}
        copies, pixels = (
            {getattr(cell.result, name)[:8] for cell in own} for name in ("shards_sha256", "pixels_sha256")
        )
        lines.append((seed, len(own), own[0].dtype, *("; ".join(sorted(each)) for each in (made, copies, pixels))))
    return rows("seed", "cells", "number type", "trained on", "shards", "pixels attacked", lines=lines)


def security_curves(cells: Sequence[Cell]) -> bytes:
    """Draw robust accuracy against the L∞ radius (PNG), the yardsticks in a panel of their own.

    A line is the mean of a method's seeds, its band holds the intervals of all of them.
    """
    entries = [Entry(f"{cell.method}-{cell.seed}", cell.method, cell.result) for cell in cells]
    groups = [tuple(e for e in entries if (e.recipe in YARDSTICKS) == apart) for apart in (False, True)]
    panels = [security_panel(Group("", group, across=True), "linf") for group in groups if group]
    return figure_bytes(panel_figure(panels), "png")


def note(found: Sequence[Answer]) -> str:
    """Return as Markdown what a paper can cite: a paragraph, and the primary claims."""
    primary = [each for each in found if each.claim in PRIMARY]
    return NOTE.format(images=max((each.images for each in primary), default=0), table=table(primary))


def main(results: Path, out: Annotated[Path, typer.Option()]) -> None:
    """Write `answer.json`, a Markdown file for each table, `authors.md` and `security.png`."""
    cells = read_cells(results)
    found = answers(cells)
    texts = {
        "answer": table(found),
        "half-widths": half_widths(found),
        "models": models_table({method: models(own, recognised(cells)) for method, own in by_method(cells).items()}),
        "autoattack": autoattack_share(cells),
        "shape": shape_table(cells),
        "corruptions": corruptions.table(
            {method: [cell.corruptions for cell in own] for method, own in by_method(cells).items()}
        ),
        "seeds": seeds_table(cells),
        "authors": note(found),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "answer.json").write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n", encoding="utf-8")
    for name, text in texts.items():
        (out / f"{name}.md").write_text(text, encoding="utf-8")
    (out / "security.png").write_bytes(security_curves(cells))


if __name__ == "__main__":
    typer.run(main)
