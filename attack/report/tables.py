"""The report's numbers for other tools: curves as CSV, and what `dvc metrics` and `dvc plots` read."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from attack.attacks.attempt import Norm
from attack.evaluation.interpolation import Curve
from attack.evaluation.summary import metrics
from attack.report.groups import Entry, Group

NORMS: tuple[Norm, ...] = ("l2", "linf")
COLUMNS = ("distance", "accuracy", "low", "high", "images")


def curves_csv(groups: Sequence[Group]) -> str:
    """Return every curve of every compared model, one line per point; `over` says which images it is over."""
    names = ("shards", "arch", "method", "model", "over", "interpolator", "norm")
    return _csv(
        (*names, *COLUMNS), (row for group in groups for entry in group.ranked for row in _curves(group, entry))
    )


def _curves(group: Group, entry: Entry) -> Iterator[tuple[str, ...]]:
    names = (group.shards_name, group.arch, entry.result.method, entry.label)
    for common, over in ((True, "common"), (False, "all")):
        for interpolator in ("linear", "authors"):
            for norm in NORMS:
                if (group.common or not common) and (common or interpolator == "linear"):
                    curve = group.curve(entry, norm, interpolator=interpolator, common=common)
                    yield from ((*names, over, interpolator, norm, *point) for point in _points(curve))


def plot_csv(groups: Sequence[Group], norm: Norm) -> str:
    """Return the linear curves of one norm over all images, for `dvc plots`: one per value of `model`."""
    rows = (
        (f"{name} {entry.label}", *point[:2])
        for name, group in zip(_names(groups), groups, strict=True)
        for entry in group.entries
        for point in _points(group.curve(entry, norm, common=False))
    )
    return _csv(("model", "distance", "accuracy"), rows)


def _names(groups: Sequence[Group]) -> list[str]:
    """Name groups by architecture; where several have one, by their shards too; where those share a name, by number."""
    archs, titles = Counter(group.arch for group in groups), Counter(group.title for group in groups)
    numbered = [
        group.title if titles[group.title] == 1 else f"{group.title} ({n})" for n, group in enumerate(groups, 1)
    ]
    return [group.arch if archs[group.arch] == 1 else name for name, group in zip(numbered, groups, strict=True)]


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
