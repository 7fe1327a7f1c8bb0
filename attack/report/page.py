"""The report's page: tables of plain values and pictures for the templates, which make HTML of them."""

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from attack.attacks import NORM_NAMES, Norm, epsilon_name, radius_name
from attack.checks.robustness import looked_at
from attack.checks.verdict import Verdict
from attack.evaluation.paper_path import INTERPOLATORS, LINEAR_POINTS
from attack.evaluation.result import Result, median_distances, whole_split
from attack.evaluation.statistics import Share, share
from attack.report.figures import METHOD_STYLES, Example, Panel, inline_svg, panel_figure, path_panel, security_panel
from attack.report.groups import Entry, Group, Measurements, compare_models, measurement_of, why_apart

GENERATOR = "stylized-pairing, attack report"
TITLE = "Robustness, and how far to believe it"
WORD_CLASSES = {"holds": "pass", "not robust": "fail", "masking suspected": "fail"}
MEANINGS = {
    "holds": "no attack of the suite went much further than the others, and all checks that matter passed",
    "not robust": "an attack leaves next to nothing; a weak attack that leaves more is no defence",
    "masking suspected": "signs that the model hides its weakness from these attacks: the numbers are too high",
    "inconclusive": "the numbers are not enough, or not reliable enough, for a verdict",
    "near chance": "the model hardly beats guessing, so its robustness means nothing and is not compared",
}
# Guan et al. (2022), Tables 1 and 2, in percent: stylized pairing, normal.
PAPER_CLEAN = {
    "CIFAR-10": {"googlenet": (94.05, 95.01), "mobilenet": (92.00, 93.29), "resnet34": (94.92, 95.59)},
    "CIFAR-100": {"googlenet": (78.72, 78.25), "mobilenet": (75.44, 74.80), "resnet34": (78.65, 80.14)},
    "ImageNet": {"googlenet": (77.74, 79.12), "mobilenet": (73.24, 74.80), "resnet34": (77.54, 79.00)},
}
PAPER_FIGURES = {
    3: (("normal", "pairing"), "pairing against normal training"),
    4: (("pairing", "adversarial"), "pairing against adversarial training"),
    5: (("stylized", "pairing"), "with and without the pairing loss"),
}
PAPER_PATH = {"steps": 100, "step_size": 1e-4}
PAPER_IMAGES = 100
FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the path's length


@dataclass(frozen=True)
class Mark:
    """A word in the look of a style class: `pass`, `fail`, `unsure`, or `doubtful` for a number not to be believed."""

    text: str
    css: str


Cell = str | Entry | Mark | tuple[Mark, Mark]
Rows = list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table of the page; the first cell of a row names it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Extras:
    """What a report shows beside results: measurements of the same models, the picture of `attack explain`, and pairs.

    `pairs` are examples by the name of their shard folder. `paper` adds the comparison with the paper: its figures,
    its tables and its authors' interpolator.
    """

    measurements: Measurements = field(default_factory=dict)
    explanations: bytes | None = None
    pairs: Sequence[tuple[str, Sequence[Example]]] = ()
    paper: bool = False


Draw = Callable[[Panel, str], Markup]  # of a panel and its description, an <svg> element


def render_page(groups: Sequence[Group], extras: Extras) -> str:
    """Return the whole page; it refers to nothing on the network."""
    return _template().render(**_summary(groups), **_figures(groups, extras.paper), **_measured(groups, extras))


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("attack.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["radius"] = epsilon_name
    functions = (
        attack_table, check_summary, check_tables, colour, command, distance_table, paper_words, security_table,
        radius_name, verdict_radius, verdict_table, why_apart,
    )  # fmt: skip
    environment.globals |= {function.__name__: function for function in functions}
    return environment.get_template("page.html.j2")


def _summary(groups: Sequence[Group]) -> dict[str, Any]:
    """Return what the page says first: which verdicts there are at each radius, and how many checks failed."""
    results = [entry.result for group in groups for entry in group.entries]
    found = [verdict for result in results for verdict in result.verdicts]
    words: dict[str, list[str]] = {}
    for verdict in found:
        words.setdefault(verdict_radius(verdict), []).append(verdict.word)
    return {
        "generator": GENERATOR,
        "title": TITLE,
        "groups": groups,
        "models": len(results),
        "counted": [
            (radius, [(one.count(word), word) for word in dict.fromkeys(one)]) for radius, one in words.items()
        ],
        "failed": sum(not check.passed for result in results for check in result.checks),
        "meanings": [(word, MEANINGS[word]) for word in MEANINGS if word in {verdict.word for verdict in found}],
        "interpolators": INTERPOLATORS,
    }


def _figures(groups: Sequence[Group], paper: bool) -> dict[str, Any]:
    """Return the page's curves and attacked images, and the paper's tables where asked for."""
    numbers = count(1)

    def draw(panel: Panel, description: str) -> Markup:
        return Markup(inline_svg(panel_figure([panel]), f"f{next(numbers)}", description))  # noqa: S704 (drawn here)

    parts = [part for group in groups for part in group.parts]
    entries = [(group, entry) for group in groups for entry in group.entries]
    found = [(group, entry, entry.result.document.get("gallery")) for group, entry in entries]
    return {
        "paper": paper,
        "security": [(part, *security_pictures(part, draw)) for part in parts if part.norms()],
        "differences": [(part, *comparisons(part)) for part in parts if len(part.ranked) > 1],
        "gallery": [each for each in found if each[2]],
        "paths": [(part, path_pictures(part, draw, paper)) for part in parts],
        "clean_table": paper_clean_table(groups),
    }


def _measured(groups: Sequence[Group], extras: Extras) -> dict[str, Any]:
    """Return what other commands measured on the same models, as tables by title, and pictures."""
    tables = {
        "transfers": [
            (f"{group.title}, L∞ {epsilon_name(epsilon)}", transfer_table(group, epsilon))
            for group in groups
            for norm, epsilon in group.radii
            if norm == "linf"
        ],
        "shape_tables": [(group.title, shape_table(group, extras.measurements)) for group in groups],
        "corruption_tables": [(group.title, corruption_table(group, extras.measurements)) for group in groups],
    }
    return {
        **{name: [(title, table) for title, table in found if table.rows] for name, found in tables.items()},
        "explanations": base64.b64encode(extras.explanations or b"").decode(),
        "pairs": extras.pairs,
    }


def colour(entry: Entry) -> str:
    """Return the CSS variable of the colour of a model's method."""
    return entry.result.method if entry.result.method in METHOD_STYLES else "other"


def verdict_table(group: Group) -> Table:
    """Return clean accuracies, and at every radius what attacks left of each model, with the verdict's word."""
    header = ["model", "clean, whole test split", *(f"robust, {radius_name(*radius)}" for radius in group.radii)]
    rows: Rows = []
    for entry in group.entries:
        clean = whole_split(entry.result)
        row: list[Cell] = [entry, f"{clean}, n = {clean.n}"]
        for verdict, cell in zip(entry.result.verdicts, entry.result.cells, strict=False):
            look = "doubtful" if verdict.word == "masking suspected" else "number"
            row.append((Mark(f"{share(cell.robust)}, n = {len(cell.robust)}", look), _word(verdict)))
        rows.append(row if group.radii else [*row, _word(entry.result.verdicts[0])])
    return Table(header if group.radii else [*header, "verdict"], rows)


def _word(verdict: Verdict) -> Mark:
    return Mark(verdict.word, WORD_CLASSES.get(verdict.word, "unsure"))


def verdict_radius(verdict: Verdict) -> str:
    """Return a verdict's norm and radius; nothing where no attack had one."""
    return "" if verdict.epsilon is None else radius_name(verdict.norm, verdict.epsilon)


def comparisons(part: Group) -> tuple[Table, int]:
    """Return the paired differences of models, and how many comparisons are left out because nothing differs."""
    found = compare_models(part)
    rows: Rows = []
    for gap, at, seeds in ((each.difference, each.at, each.seeds) for each in found if not each.alike):
        higher = gap.first if gap.mean > 0 else gap.second
        so = f"{higher} is better" if seeds > 1 else f"{higher} is higher, on this training seed"
        text = f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]".replace("-", "−")
        rows.append([f"{gap.first} − {gap.second}", at, text, f"{gap.adjusted:.3f}", "tie" if gap.tie else so])
    return Table(["pair", "at", "difference", "adjusted p", "so"], rows), sum(each.alike for each in found)


def security_pictures(part: Group, draw: Draw) -> tuple[str, list[Markup]]:
    """Return the security curves of models that are compared, with a title that says how many images they are over."""
    norms = part.norms()
    images = {part.security_images(norm): NORM_NAMES[norm] for norm in norms}
    over = ", ".join(f"{norm} n = {n}" if len(images) > 1 else f"n = {n}" for n, norm in images.items())
    text = f"Robust accuracy against radius, {part.title}, "
    return f"{part.title}, {over}", [draw(security_panel(part, norm), text + NORM_NAMES[norm]) for norm in norms]


def security_table(part: Group) -> Table:
    """Return the median of the smallest change that is an error, and from where on nothing is left."""
    medians = {entry.label: median_distances(entry.result) for entry in part.entries}
    norms = [norm for norm in part.norms() if any(norm in found for found in medians.values())]
    rows: Rows = []
    for entry in part.entries if norms else ():
        row: list[Cell] = [entry]
        for norm in norms:
            curve = part.security_curve(entry, norm)
            nothing = curve.distance[curve.accuracy.index(0)] if 0 in curve.accuracy else None
            row += ["–" if far is None else _length(norm, far) for far in (medians[entry.label].get(norm), nothing)]
        rows.append(row)
    measured = ("median smallest change", "nothing left from")
    return Table(["model", *(f"{NORM_NAMES[norm]}, {what}" for norm in norms for what in measured)], rows)


def _length(norm: Norm, distance: float) -> str:
    return f"{255 * distance:.2f}/255" if norm == "linf" else f"{distance:.3f}"


def path_pictures(part: Group, draw: Draw, paper: bool) -> list[tuple[str, list[Markup]]]:
    """Return the curves of the paper's path by title: common images, all images and, if asked, the paper's figures.

    Those are Figures 3, 4, 5 and 7: what they compare, on the same common images.
    """
    ranked = part.ranked

    def path(entries: Sequence[Entry] = ranked, **options: Any) -> list[Markup]:
        text = f"Accuracy along the paper's path, {part.title}, "
        return [draw(path_panel(part, entries, norm, **options), text + NORM_NAMES[norm]) for norm in ("l2", "linf")]

    if not part.common:
        return []
    shown = [
        (f"{len(part.common)} common images", path()),
        ("All images that were looked at, clean errors counted", path(common=False)),
    ]
    if not paper:
        return shown
    shown.append(("The authors’ interpolator", path(interpolator="authors")))
    methods = {entry.result.method for entry in ranked}
    for figure, (pair, question) in PAPER_FIGURES.items():
        if set(pair) <= methods:
            shown.append((f"Figure {figure}: {question}", path([e for e in ranked if e.result.method in pair])))
    styles = [entry for entry in ranked if entry.result.method == "pairing"]
    if len({entry.result.trained_on for entry in styles}) > 1:
        shown.append(("Figure 7: style sets compared, pairing", path(styles)))
    return shown


def distance_table(part: Group) -> Table:
    """Return the accuracy on the common images at fifths of the path's length."""
    largest = part.largest("linf")
    distances = [fifth * largest for fifth in FIFTHS]
    points = [*(np.array([linf]) for linf in distances), np.linspace(0, largest, LINEAR_POINTS)]
    rows: Rows = []
    for entry in part.ranked:
        records = entry.records(part.common)
        rows.append([entry, *(str(share(records.mean_values(each))) for each in points)])
    return Table(["model", *(f"{255 * linf:.2f}/255" for linf in distances), "mean over the range"], rows)


def paper_clean_table(groups: Sequence[Group]) -> Table:
    """Return Tables 1 and 2 of the paper beside the clean accuracy of our models."""
    rows: Rows = []
    for entry in (entry for group in groups for entry in group.entries):
        arch = "mobilenet" if entry.result.arch.startswith("mobilenet") else entry.result.arch
        column = {"pairing": 0, "normal": 1}.get(entry.result.method)
        printed = [
            "–" if column is None or arch not in numbers else f"{numbers[arch][column]:.2f} %"
            for numbers in PAPER_CLEAN.values()
        ]
        rows.append([entry, entry.result.arch, str(whole_split(entry.result)), *printed])
    return Table(["model", "network", "ours, whole test split", *(f"paper, {name}" for name in PAPER_CLEAN)], rows)


def transfer_table(group: Group, epsilon: float) -> Table:
    """Return who withstood whose adversarial images at a radius; without rows where `attack transfer` was not run.

    Nothing is known of a model's own images, or where it took no part. Transfers name a model by its folder, or by its
    path where two folders share a name.
    """
    found = {
        entry.label: {
            attack.name.removeprefix("transfer:"): f"{100 * np.mean(attack.robust):.1f} %"
            for attack in entry.result.attacks
            if attack.kind == "transfer" and attack.epsilon == epsilon
        }
        for entry in group.entries
    }
    names = list(dict.fromkeys(name for withstood in found.values() for name in withstood))
    rows: Rows = []
    for entry in group.entries:
        known = (entry.result.model_name, entry.result.document["model"]["path"])
        rows += [[entry, name] for name in names if name in known]
    rows += [[name, name] for name in names if name not in [row[1] for row in rows]]
    return Table(
        ["attacked", *found],
        [
            [source, *(withstood.get(str(name), "its own" if withstood else "–") for withstood in found.values())]
            for source, name in rows
        ],
    )


def shape_table(group: Group, measurements: Measurements) -> Table:
    """Return shape bias beside robust accuracy, for models that `attack shape-bias` measured."""
    rows: Rows = []
    for entry in group.entries:
        found = measurement_of(measurements, "shape-bias", entry)
        if found is not None:
            robust = [str(share(cell.robust)) for cell in entry.result.cells]
            cells = [_share(found[name]) for name in ("shape_accuracy", "texture_accuracy")]
            cells += [_rank(found.get(f"{cue}_reciprocal_rank")) for cue in ("shape", "texture")]
            cells.append(_share(found["shape_bias"]))
            plain = found["texture_free"]
            rows.append([entry, *cells, _share(plain["accuracy"]) if plain else "–", *robust])
    radii = (f"robust, {radius_name(*radius)}" for radius in group.radii)
    cues = ("by shape", "by texture", "rank⁻¹ of shape", "rank⁻¹ of texture", "shape bias", "without texture")
    return Table(["model", *cues, *radii], rows)


def _rank(found: Mapping[str, float] | None) -> str:
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else "–"


def corruption_table(group: Group, measurements: Measurements) -> Table:
    """Return errors on corrupted images, for models that `attack corruptions` measured."""
    found = [(entry, measurement_of(measurements, "corruptions", entry)) for entry in group.entries]
    known = [(entry, document) for entry, document in found if document is not None]
    kinds = list(dict.fromkeys(record["corruption"] for _, document in known for record in document["records"]))
    rows: Rows = []
    for entry, document in known:
        clean = _share(document["clean_error"]) if document["clean_error"] else "–"
        mean = f"{100 * document['mean_corruption_error']['mean']:.1f} %"
        errors = {kind: [r["error"]["share"] for r in document["records"] if r["corruption"] == kind] for kind in kinds}
        cells = [f"{100 * sum(each) / len(each):.1f} %" if each else "–" for each in errors.values()]  # all severities
        rows.append([entry, document["corruptions_from"], clean, mean, *cells])
    return Table(["model", "images", "clean", "mean", *kinds], rows)


def _share(found: Mapping[str, Any]) -> str:
    """Return a share as it stands in a file of measurements."""
    if found["share"] is None:
        return "–"
    return str(Share(found["share"], found["low"], found["high"], found["n"]))


def check_tables(group: Group, entry: Entry) -> tuple[Table, Table]:
    """Return a model's failed checks, and the others: those that passed, and those that only others needed."""
    failed: Rows = []
    others: Rows = []
    for check in entry.result.checks:
        mark = Mark("pass", "pass") if check.passed else Mark("FAIL", "fail")
        (others if check.passed else failed).append([check.name, mark, check.detail, check.meaning])
    for name in _not_made(group, entry):
        others.append([name, "not made", "does not apply to this model and its attacks", ""])
    header = ["check", "result", "numbers", "what a failure would mean"]
    return Table(header, failed), Table(header, others)


def check_summary(group: Group, entry: Entry) -> Mark:
    """Return how many checks a model failed, passed and did not need; the sum is the same for a whole group."""
    failed, others = sum(not check.passed for check in entry.result.checks), len(_not_made(group, entry))
    passed = f"{len(entry.result.checks) - failed} passed" + (f", {others} not made" if others else "")
    return Mark(f"{failed} failed, {passed}", "fail") if failed else Mark(passed, "pass")


def _not_made(group: Group, entry: Entry) -> list[str]:
    names = dict.fromkeys(check.name for each in group.entries for check in each.result.checks)
    made = {check.name for check in entry.result.checks}
    return [name for name in names if name not in made]


def attack_table(entry: Entry) -> Table:
    """Return a model's attacks, one a row."""
    rows: Rows = []
    for attack in entry.result.attacks:
        n = looked_at(attack)
        if attack.epsilon is None:
            middle, radius = float(np.median(attack.distance[:n])), f"smallest {NORM_NAMES[attack.norm]}"
            found = f"median {_length(attack.norm, middle)}" if np.isfinite(middle) else "none for half of the images"
        else:
            radius, found = radius_name(attack.norm, attack.epsilon), str(share(attack.robust[:n]))
        passes = f"{attack.forwards:,} / {attack.backwards:,}"
        if attack.kind != "transfer":
            rows.append([attack.name, attack.kind, radius, found, str(n), passes, f"{attack.seconds:.1f}"])
    return Table(["attack", "kind", "radius", "still right", "images", "passes forward / back", "seconds"], rows)


def paper_words(result: Result) -> str:
    """Call the path the paper's protocol only where it is: 100 images, 100 steps of 1e-4."""
    path = result.document["path"]
    count = len(path["records"])
    text = f"{count} images × {path['steps']} steps × {path['step_size']:g}"
    if any(path[name] != number for name, number in PAPER_PATH.items()) or count < PAPER_IMAGES:
        return f"{text}; the paper has 100 × 100 × 0.0001"
    more = "" if count == PAPER_IMAGES else f" on {count - PAPER_IMAGES} more images"
    return f"{text}: the paper’s protocol{more}"


def command(result: Result) -> str:
    """Return the command line that makes a result again."""
    asked, path, model = result.document["protocol"], result.document["path"], result.document["model"]
    words = ["attack", "run", "--model", model["path"], "--shards", result.document["shards"]["path"]]
    words += ["--out", result.path.name]
    radii = [(cell.norm, cell.epsilon) for cell in result.cells] or [("linf", far) for far in result.epsilons]
    words += ["--norm", ",".join(dict.fromkeys(norm for norm, _ in radii))]
    for norm, epsilon in radii:
        words += ["--epsilon", epsilon_name(epsilon)] if norm == "linf" else [f"--epsilon-{norm}", f"{epsilon:.12g}"]
    for name in dict.fromkeys(attack.name for attack in result.attacks if ":" in attack.name):
        if not name.startswith("transfer:"):
            words += ["--loss", name.removeprefix("pgd-")] if name.startswith("pgd-") else ["--attack", name]
    words += [word for name in ("eot", "surrogate") if asked.get(name) for word in (f"--{name}", str(asked[name]))]
    options = {name: asked[name] for name in ("suite", "images", "strong_images", "batch_size", "seed")}
    for name, value in {**options, **{name: path[name] for name in ("steps", "step_size", "zero_gradient")}}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
