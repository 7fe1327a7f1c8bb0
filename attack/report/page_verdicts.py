"""The head of the page: verdicts, robust accuracy, and which differences are more than chance."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from attack.evaluation.config import epsilon_name
from attack.evaluation.estimates import path_values
from attack.evaluation.interpolation import LINEAR_POINTS
from attack.evaluation.statistics import Difference, compare, share
from attack.evaluation.summary import whole_split
from attack.report.groups import NEAR_CHANCE, Entry, Group
from attack.report.html import folded, name_entry, quiet, section, table

WORD_CLASSES = {"holds": "pass", "not robust": "fail", "masking suspected": "fail"}
MEANINGS = {
    "holds": "no attack of the suite went much further than the others, and all checks that matter passed",
    "not robust": "an attack leaves next to nothing; a weak attack that leaves more is no defence",
    "masking suspected": "signs that the model hides its weakness from these attacks: the numbers are too high",
    "inconclusive": "the numbers are not enough, or not reliable enough, for a verdict",
    NEAR_CHANCE: "the model hardly beats guessing, so its robustness means nothing and is not compared",
}


def verdicts(groups: Sequence[Group]) -> str:
    """Return the first section: one table of verdicts a group, its reasons and its comparisons."""
    words = {entry.result.verdict.word for group in groups for entry in group.entries}
    meanings = "; ".join(f"<strong>{escape(word)}</strong>: {MEANINGS[word]}" for word in MEANINGS if word in words)
    note = (
        "Robust accuracy counts an image only where the model classifies it correctly as it is and where no attack of "
        "the suite found an error within the radius. In brackets: 95 % intervals over images (Wilson). "
        f"{meanings}."
    )
    return section("Verdicts", quiet(note), *(_group(group) for group in groups), anchor="verdicts")


def _group(group: Group) -> str:
    header = ["model", "verdict", "clean, whole test split", *(_robust_header(group, one) for one in group.epsilons)]
    entries = sorted(group.entries, key=lambda entry: (entry.near_chance, -_rank(group, entry)))
    rows = [_row(group, entry) for entry in entries]
    reasons = folded("Why", "".join(_reasons(entry) for entry in entries))
    return f"<h3>{escape(group.title)}</h3>{table(header, rows)}{reasons}{comparisons(group)}"


def _robust_header(group: Group, epsilon: float) -> str:
    return f"robust at L∞ {epsilon_name(epsilon)}, n = {len(group.entries[0].result.keys)}"


def _rank(group: Group, entry: Entry) -> float:
    """Sort by robust accuracy, in which clean errors count, at all radii together; by clean accuracy where none is."""
    return sum(float(entry.robust(epsilon).mean()) for epsilon in group.epsilons) or whole_split(entry.result).mean


def _row(group: Group, entry: Entry) -> list[str]:
    word = entry.result.verdict.word
    verdict = f'<span class="{WORD_CLASSES.get(word, "unsure")}">{escape(word)}</span>'
    clean = whole_split(entry.result)
    shares = (str(share(entry.robust(epsilon))) for epsilon in group.epsilons)
    return [name_entry(entry), verdict, f"{clean}, n = {clean.n}", *shares]


def _reasons(entry: Entry) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in entry.result.verdict.reasons)
    return f"<p>{name_entry(entry)}: {escape(entry.result.verdict.word)}</p><ul>{reasons}</ul>"


def comparisons(group: Group) -> str:
    """Return the paired differences of all methods, by radius and along the paper's path; nothing for one method."""
    rows = [[*cells] for name, gaps in _compared(group) for cells in (_difference(name, gap) for gap in gaps)]
    if not rows:
        return ""
    seeds = max(len(values) for values in group.by_recipe([np.zeros(1)] * len(group.ranked)).values())
    over = (
        "images and training seeds" if seeds > 1 else "images; one training seed each, so other seeds may differ more"
    )
    note = quiet(
        "Differences on the same images, in points, with 95 % bootstrap intervals over "
        f"{over}. A tie is what chance explains at the 5 % level after Holm’s correction for all pairs of a kind."
    )
    return folded(
        "Which differences are more than chance",
        note + table(["pair", "at", "difference", "p", "so"], rows),
        opened=True,
    )


def _compared(group: Group) -> Iterator[tuple[str, list[Difference]]]:
    for epsilon in group.epsilons:
        values = group.by_recipe([entry.robust(epsilon) for entry in group.ranked])
        yield f"L∞ {epsilon_name(epsilon)}, all images", compare(values)
    if group.common:
        points = np.linspace(0, group.largest_linf, LINEAR_POINTS)
        values = group.by_recipe([path_values(entry.records(group.common), points) for entry in group.ranked])
        yield f"paper’s path, mean, {len(group.common)} common images", compare(values)


def _difference(name: str, gap: Difference) -> list[str]:
    better = gap.first if gap.mean > 0 else gap.second
    so = "tie" if gap.tie else f"{better} is better"
    text = f"{100 * gap.mean:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]".replace("-", "−")
    return [f"{escape(gap.first)} − {escape(gap.second)}", name, text, f"{gap.adjusted:.3f}", escape(so)]
