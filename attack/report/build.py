"""From result files to a folder: page, figures, tables, metrics; or RobustBench's `model_info` files."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from attack.attacks import AttackResult, Norm, epsilon_name
from attack.checks.robustness import Cell, looked_at
from attack.checks.verdict import Verdict
from attack.evaluation.paper_path import Curve
from attack.evaluation.result import Result, check_output, metrics, read_result
from attack.evaluation.statistics import share
from attack.evaluation.transfer import read_transfer
from attack.report.figures import figure_bytes, panel_figure, path_panel, read_examples, read_png, security_panel
from attack.report.groups import Group, group_results, read_measurements, take_in, why_apart
from attack.report.page import GENERATOR, Extras, render_page
from stylize.console import InputError, literal
from stylize.files import file_sha256, given_name, write_atomically
from stylize.shards.manifest import MANIFEST_NAME

NORMS: tuple[Norm, ...] = ("l2", "linf")
KINDS = ("png", "svg")
COLUMNS = ("distance", "accuracy", "low", "high", "images")


def curves_csv(groups: Sequence[Group]) -> str:
    """Return every curve along the path, one line per point; `over` says which images it is over."""
    rows: list[tuple[str, ...]] = []
    ranked = [(part, entry) for group in groups for part in group.parts for entry in part.ranked]
    for part, entry in ranked:
        names = (entry.result.shards_name, entry.result.arch, entry.result.method, entry.label)
        kinds = [("common", "linear"), ("common", "authors"), ("all", "linear")]
        for (over, interpolator), norm in product(kinds if part.common else kinds[-1:], NORMS):
            curve = part.curve(entry, norm, interpolator=interpolator, common=over == "common")
            rows += [(*names, over, interpolator, norm, *point) for point in _points(curve)]
    return _csv(("shards", "arch", "method", "model", "over", "interpolator", "norm", *COLUMNS), rows)


def security_csv(groups: Sequence[Group]) -> str:
    """Return the security curves, one line per model, norm and radius."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        for part in group.parts:
            for norm, entry in product(part.norms(), part.entries):
                curve = part.security_curve(entry, norm)
                rows += [(part.title, entry.label, norm, *point) for point in _points(curve)]
    return _csv(("group", "model", "norm", "epsilon", *COLUMNS[1:]), rows)


def plot_csv(groups: Sequence[Group], norm: Norm) -> str:
    """Return the linear curves of one norm over all images, for `dvc plots`: one per value of `model`."""
    rows = (
        (f"{group.title} {entry.label}" if len(groups) > 1 else entry.label, *point[:2])
        for group in groups
        for entry in group.entries
        for point in _points(group.curve(entry, norm, common=False))
    )
    return _csv(("model", "distance", "accuracy"), rows)


def metrics_files(groups: Sequence[Group]) -> dict[str, bytes]:
    """Return one small JSON per model, named as its result: what `dvc metrics show` prints a line of."""
    found: dict[str, bytes] = {}
    for result in (entry.result for group in groups for entry in group.entries):
        name = re.sub(r"[^\w.]+", "-", result.path.stem).strip("-.") or "model"
        while f"{name}.json" in found:  # results of one name in several folders
            name += "-"
        found[f"{name}.json"] = (json.dumps(metrics(result), indent=1) + "\n").encode()
    return found


def _points(curve: Curve) -> Iterator[tuple[str, ...]]:
    for point in zip(*(getattr(curve, column) for column in COLUMNS), strict=True):
        yield tuple(f"{value:.6g}" for value in point)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


LARGEST_HEAD = 4096  # bytes of a page that name its generator


def write_report(
    results: Sequence[Path],
    out: Path,
    *,
    shards: Sequence[Path] = (),
    transfer: Path | None = None,
    beside: Sequence[Path] = (),
    explanations: Path | None = None,
    across: bool = False,
    paper: bool = False,
    tell: Callable[[str], object] = lambda text: None,
) -> Path:
    """Write `index.html` and, for other tools, figures, curves, plots and metrics into `out`; return the page's path.

    The same files give the same bytes. Nothing is written unless everything could be made.

    Args:
        results: JSON files of `attack run`, made with one protocol.
        out: folder, made when missing; files of an earlier report in it are replaced.
        shards: shard folders that were attacked or trained on, to show stylized pairs from; they name style sets.
        transfer: file of `attack transfer`, whose attacks count in verdicts and robust accuracies.
        beside: files of `attack shape-bias` and `attack corruptions` on the same models.
        explanations: picture of `attack explain`.
        across: compare models of different architectures too.
        paper: show the paper's figures, tables and numbers beside ours.
        tell: called with a sentence for each group of results that is not compared with the first.

    Raises:
        InputError: a file is missing or damaged, results cannot be compared, a folder was not used, or `out` holds
            files that are no report's.
    """
    read = [read_result(path) for path in results]
    if transfer is not None:
        read = list(map(partial(take_in, read_transfer(transfer)), read))
    pairs = [(literal(given_name(folder)), read_examples(folder)) for folder in shards]
    style_sets = {_used(folder, read): name for folder, (name, _) in zip(shards, pairs, strict=True)}
    extras = Extras(read_measurements(beside, read), read_png(explanations) if explanations else None, pairs, paper)
    groups = group_results(read, style_sets, across=across)
    content = build_report(groups, extras)
    page = out / "index.html"
    check_output(page, begins=b"<")
    ours = page.is_file() and GENERATOR.encode() in page.read_bytes()[:LARGEST_HEAD]
    if foreign := [] if ours else [out / name for name in content if (out / name).exists()]:
        raise InputError(f"{foreign[0]} is not of an earlier report, and would be replaced: give another --out.")
    for name, payload in content.items():
        write_atomically(out / name, payload)
    for group in groups[1:]:
        why = why_apart(groups[0].entries[0].result, group.entries[0].result)
        tell(f"{group.title} is not compared with {groups[0].title}: {why}.")
    return page


def _used(folder: Path, results: Sequence[Result]) -> str:
    """Return the digest of a shard folder that a result was made, or its model trained, from."""
    digest = file_sha256(folder / MANIFEST_NAME)
    if digest not in {known for result in results for known in (result.shards_sha256, result.trained_on)}:
        raise InputError(f"{folder} is not a shard folder of these results: give one that they were made from.")
    return digest


def build_report(groups: Sequence[Group], extras: Extras) -> dict[str, bytes]:
    """Return the report's files by name, `index.html` last (see `write_report`)."""
    content: dict[str, bytes] = {}
    for group in groups:
        for part in group.parts:
            content |= _figures(part, content)
    content["security.csv"] = security_csv(groups).encode()
    content["curves.csv"] = curves_csv(groups).encode()
    for norm in NORMS:
        content[f"plots/{norm}.csv"] = plot_csv(groups, norm).encode()
    content |= {f"metrics/{name}": payload for name, payload in metrics_files(groups).items()}
    content["index.html"] = render_page(groups, extras).encode()
    return content


def _figures(part: Group, taken: Iterable[str]) -> dict[str, bytes]:
    """Return security curves and curves along the path as files of names not yet taken; none where there are none."""
    name = re.sub(r"[^\w.-]+", "-", part.title).strip("-")
    while {f"figures/{name}.png", f"figures/{name}-path.png"} & set(taken):  # other images of shards of that name
        name += "-"
    drawn = {}
    if norms := part.norms():
        drawn[name] = panel_figure([security_panel(part, norm) for norm in norms], f"Robust accuracy: {part.title}")
    if part.common:
        panels = [path_panel(part, part.ranked, norm) for norm in NORMS]
        title = f"The paper's path: {part.title}, {len(part.common)} common images"
        drawn[f"{name}-path"] = panel_figure(panels, title)
    return {f"figures/{name}.{kind}": figure_bytes(figure, kind) for name, figure in drawn.items() for kind in KINDS}


THREATS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
BY_HAND = ("link", "name", "authors", "additional_data", "venue", "reported")  # what a result does not know


def export_results(results: Sequence[Path], out: Path, dataset: str | None = None) -> list[Path]:
    """Write RobustBench's fields (Croce et al. 2021) for each result and radius that AutoAttack met; return the paths.

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
