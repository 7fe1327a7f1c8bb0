"""What a report says about its results: groups to compare, labels, numbers, ranking and plain tables."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attack.evaluation.estimates import mean_accuracy
from attack.evaluation.interpolation import LINEAR_POINTS, Curve, linear_curve
from attack.evaluation.results import Result
from stylize.errors import InputError
from stylize.wording import option_name

TABLE_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the attack's largest L-infinity distance
METHOD_ORDER = ("normal", "stylized", "pairing", "adversarial")


@dataclass(frozen=True)
class Entry:
    """One attacked model in a group, under a label that no other has there."""

    label: str
    result: Result

    def curve(self, interpolator: str, norm: str, largest: float) -> Curve:
        """Return the authors' curve as stored, or the linear one redrawn on a grid that the whole group shares."""
        if interpolator != "linear":
            stored = (Curve(**curve) for curve in self.result.document["curves"])
            return next(curve for curve in stored if (curve.interpolator, curve.norm) == (interpolator, norm))
        records = self.result.records
        points = np.linspace(0, largest, LINEAR_POINTS)
        distance = records.linf if norm == "linf" else records.l2
        return linear_curve(norm, distance, records.correct, points)


@dataclass(frozen=True)
class Group:
    """Models of one architecture that were attacked on the same test images."""

    arch: str
    shards_name: str
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Architecture and shard folder."""
        return f"{self.arch} on {self.shards_name}"

    @property
    def largest(self) -> dict[str, float]:
        """Largest L2 distance that occurs in the group, and the L∞ distance that the whole path can reach."""
        l2 = max(float(entry.result.records.l2.max()) for entry in self.entries)
        return {"l2": l2, "linf": self.entries[0].result.largest_linf}

    @property
    def ranking(self) -> list[Entry]:
        """Entries by mean accuracy over the L∞ range, best first."""
        return sorted(self.entries, key=lambda entry: -mean_accuracy(entry.result).mean)


def group_results(results: Sequence[Result]) -> list[Group]:
    """Group results by architecture and shard folder; raise `InputError` where they cannot be compared."""
    _check_comparable(results)
    manifests: dict[str, set[str]] = {}
    for result in results:
        manifests.setdefault(result.shards_name, set()).add(result.shards_sha256)
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        alone = len(manifests[result.shards_name]) == 1  # else folders of one name hold different shards
        shards = result.shards_name if alone else f"{result.shards_name} {result.shards_sha256[:8]}"
        found.setdefault((result.arch, shards), []).append(result)
    return [Group(arch, shards, _label(members)) for (arch, shards), members in sorted(found.items())]


def _check_comparable(results: Sequence[Result]) -> None:
    if not results:
        raise InputError("There is no result to report: give the JSON files that `attack run` wrote.")
    compared = ("attack", "images", "steps", "step_size", "zero_gradient", "seed")
    for result in results[1:]:
        for name in compared:
            first, other = results[0].document["protocol"][name], result.document["protocol"][name]
            if first != other:
                raise InputError(
                    f"{results[0].path} was made with {option_name(name)} {first!r} but {result.path} with {other!r}: "
                    "attack all models with one protocol, or write two reports."
                )


def _label(results: list[Result]) -> tuple[Entry, ...]:
    """Label by method, adding the model's folder, then its path, only where that is needed to tell models apart."""
    results = sorted(results, key=lambda result: (_method_rank(result.method), result.method, str(result.path)))
    paths = [str(result.document["model"]["path"]) for result in results]
    for labels in (
        [result.method for result in results],
        [f"{result.method} ({result.model_name})" for result in results],
        [f"{result.method} ({path})" for result, path in zip(results, paths, strict=True)],
    ):
        if len(set(labels)) == len(labels):
            return tuple(Entry(label, result) for label, result in zip(labels, results, strict=True))
    again = next(path for path in paths if paths.count(path) > 1)
    raise InputError(f"Two results are of the same model, {again}: give each model once.")


def _method_rank(method: str) -> int:
    return METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)


def table_distances(group: Group) -> list[float]:
    """Return the L∞ distances of the accuracy table: fifths of the attack's largest."""
    return [share * group.largest["linf"] for share in TABLE_SHARES]


def curves_csv(groups: Sequence[Group]) -> str:
    """Every stored curve of every result, one line per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("distance", "accuracy", "standard_error", "images")
    writer.writerow(("shards", "arch", "method", "model", "interpolator", "norm", *columns))
    for group in groups:
        for entry in group.entries:
            names = (group.shards_name, group.arch, entry.result.method, entry.label)
            for curve in entry.result.document["curves"]:
                points = zip(*(curve[column] for column in columns), strict=True)
                writer.writerows(
                    (*names, curve["interpolator"], curve["norm"], *map(_short, point)) for point in points
                )
    return text.getvalue()


def _short(value: float) -> str:
    return f"{value:.6g}"


def metrics_json(groups: Sequence[Group]) -> str:
    """One wide table for plotting tools: rows of `linf` and one accuracy column per model (linear interpolation)."""
    columns: dict[str, list[float]] = {}
    for group in groups:
        for entry in group.entries:
            curve = entry.curve("linear", "linf", group.largest["linf"])
            columns["linf"] = curve.distance
            columns[f"{group.title}: {entry.label}"] = curve.accuracy
    rounded = [[float(_short(value)) for value in column] for column in columns.values()]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*rounded, strict=True)]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
