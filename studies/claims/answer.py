"""The study's answer: each claim of docs/study.md against the results, as a table and as JSON.

    python answer.py RESULTS SHAPE --out FOLDER

Files are called NAME-SEED.json; models of one NAME and other seeds are taken together.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from attack import Result, compare, interpolate_records, read_result, worst_case
from attack.attacks import Norm, radius_name
from attack.checks.robustness import radii

Array = NDArray[np.float64]
STRONG = 2 / 255
RADII = {"strong": STRONG, "strong, 8/255": 8 / 255}  # of measures of robust accuracy
PATH_POINTS = 101
Z = 1.96  # of a 95 % interval


class Claim(NamedTuple):
    """A difference `first` - `second` in one measure, in points, and where its interval must lie to support it."""

    name: str
    text: str
    first: str
    second: str
    measure: str
    low: float
    high: float = inf


ATTACKED = (
    ("C1", "pairing is more robust than normal training", "pairing", "normal", 0, inf),
    ("C2", "pairing is like adversarial training", "pairing", "adversarial", -5, 5),
    ("C3", "pairing beats stylized training without its loss", "pairing", "stylized", 0, inf),
    ("C4", "one style is at least as good as random styles", "pairing", "pairing-random", -2, inf),
    ("K1", "pairing beats pairing with the copy of another image", "pairing", "wrong_partner", 0, inf),
    ("K2", "pairing beats pairing with other colours", "pairing", "jitter", 0, inf),
)
CLAIMS = (
    *(Claim(*claim[:4], measure, *claim[4:]) for claim in ATTACKED for measure in ("weak", "strong")),
    Claim("C5", "it costs about one point of clean accuracy", "pairing", "normal", "clean", -2.5, 0.5),
    Claim("C6", "it learns shape", "pairing", "normal", "shape", 0),
    Claim("A1", "a partner adds to fast adversarial training", "nfgsm_pairing", "nfgsm", "strong, 8/255", 0),
)


@dataclass(frozen=True)
class Answer:
    """What the runs say of a claim: the difference in points with its 95 % interval, over how many models, a word."""

    claim: str
    text: str
    compared: str
    measure: str
    difference: float
    low: float
    high: float
    models: tuple[int, int]
    images: int
    word: str


class Model(NamedTuple):
    """One model: its result, and whether it named the shape's class of each cue-conflict image, (N,)."""

    result: Result
    by_shape: Array


def read_models(results: Path, shape: Path) -> dict[str, list[Model]]:
    """Read all models by NAME."""
    found: dict[str, list[Model]] = {}
    for path in sorted(results.glob("*.json")):
        found.setdefault(path.stem.rpartition("-")[0], []).append(read_model(path, shape / path.name))
    return found


def read_model(result: Path, shape: Path) -> Model:
    """Read one model from its files."""
    records = json.loads(shape.read_text(encoding="utf-8"))["records"]
    return Model(read_result(result), np.array([record["predicted"] == record["shape"] for record in records], float))


def answer(claim: Claim, first: Sequence[Model], second: Sequence[Model]) -> Answer:
    """Weigh one claim; images are the same for all models, in the same order."""
    if claim.measure == "clean":
        images = first[0].result.document["clean"]["images"]
        difference, low, high = clean_difference(first, second)
    else:
        pair = {"first": values(claim.measure, first, second), "second": values(claim.measure, second, first)}
        found, images = compare(pair)[0], pair["first"].shape[1]
        difference, low, high = 100 * found.mean, 100 * found.low, 100 * found.high
    return weigh(claim, difference, low, high, (len(first), len(second)), images)


def weigh(claim: Claim, difference: float, low: float, high: float, models: tuple[int, int], images: int) -> Answer:
    """Return what a difference in points and its interval say of a claim."""
    compared, word = f"{claim.first} − {claim.second}", judge(claim, low, high)
    return Answer(claim.name, claim.text, compared, claim.measure, difference, low, high, models, images, word)


def values(measure: str, models: Sequence[Model], others: Sequence[Model]) -> Array:
    """Return what a measure says of each image, (S, N) for S models."""
    if measure == "shape":
        return np.stack([model.by_shape for model in models])
    if measure in RADII:
        return np.stack([worst(model, RADII[measure]) for model in models])
    walked = [set(model.result.records.keys) for model in (*models, *others)]
    keys = [key for key in models[0].result.keys if all(key in each for each in walked)]
    return np.stack([_mean_along_path(model.result, keys) for model in models])


def worst(model: Model, epsilon: float, norm: Norm = "linf") -> Array:
    """Return which images withstand all attacks within a radius, (N,)."""
    return np.array(worst_case(model.result.clean, model.result.attacks, norm, epsilon), float)


def _mean_along_path(result: Result, keys: Sequence[str]) -> Array:
    records = result.records.chosen(keys)
    points = np.linspace(0, result.largest_linf, PATH_POINTS)
    means: Array = interpolate_records(records.linf, records.correct, points).mean(1)
    return means


def clean_difference(first: Sequence[Model], second: Sequence[Model]) -> tuple[float, float, float]:
    """Return difference and interval of clean accuracies in points, as if the models had met different images.

    The variance is that of shares over the test images, and that of the seeds' means where there are several.
    """
    means, variance = [], 0.0
    for models in (first, second):
        shares = np.array([model.result.document["clean"]["accuracy"] for model in models])
        images = models[0].result.document["clean"]["images"]
        mean = shares.mean()
        seeds = shares.var(ddof=1) / len(shares) if len(shares) > 1 else 0.0
        means.append(mean)
        variance += mean * (1 - mean) / images + seeds
    difference, half = 100 * (means[0] - means[1]), 100 * Z * sqrt(variance)
    return difference, difference - half, difference + half


def judge(claim: Claim, low: float, high: float) -> str:
    """Return `supported` where the interval lies inside the claim's range, `refuted` where outside, else `open`."""
    if claim.low < low and high < claim.high:
        return "supported"
    return "refuted" if high < claim.low or low > claim.high else "open"


def table(answers: Sequence[Answer]) -> str:
    """Return the answers as Markdown."""
    lines = ["| | claim | compared | measure | difference, points | models, images | result |", "|" + " --- |" * 7]
    for each in answers:
        difference = f"{each.difference:+.1f} [{each.low:+.1f}, {each.high:+.1f}]"
        size = f"{each.models[0]} and {each.models[1]}, {each.images}"
        cells = (each.claim, each.text, each.compared, each.measure, difference, size, f"**{each.word}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def models_table(models: dict[str, list[Model]]) -> str:
    """Return what each kind of model reaches, in per cent, as Markdown: the mean of its seeds, and their range."""
    met = radii([attack for own in models.values() for model in own for attack in model.result.attacks])
    head = ("models", "seeds", "clean", *(radius_name(*radius) for radius in met), "by shape")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, own in models.items():
        shares = [
            [model.result.document["clean"]["accuracy"] for model in own],
            *(
                [worst(model, epsilon, norm).mean() for model in own if (norm, epsilon) in radii(model.result.attacks)]
                for norm, epsilon in met
            ),
            [model.by_shape.mean() for model in own],
        ]
        lines.append(f"| {name} | {len(own)} | {' | '.join(_seeds(each, len(own)) for each in shares)} |")
    return "\n".join(lines) + "\n"


def _seeds(shares: Sequence[float], models: int) -> str:
    """Return mean and range of the seeds, or how many these are where not all were measured."""
    if not shares:
        return ""
    mean = f"{100 * np.mean(shares):.1f}"
    if models == 1:
        return mean
    if len(shares) < models:
        return f"{mean} (seeds: {len(shares)})"
    return f"{mean} ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


def main(results: Path, shape: Path, out: Annotated[Path, typer.Option()]) -> None:
    """Write `answer.md`, `answer.json` and `models.md`."""
    models = read_models(results, shape)
    claims = sorted(CLAIMS, key=lambda claim: claim.name)
    known = (claim for claim in claims if claim.first in models and claim.second in models)
    answers = [answer(claim, models[claim.first], models[claim.second]) for claim in known]
    out.mkdir(parents=True, exist_ok=True)
    (out / "answer.json").write_text(json.dumps([asdict(each) for each in answers], indent=1) + "\n", encoding="utf-8")
    (out / "answer.md").write_text(table(answers), encoding="utf-8")
    (out / "models.md").write_text(models_table(models), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
