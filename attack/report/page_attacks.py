"""What every attack and check found, model by model, and transfers between models."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from attack.attacks.attempt import Attempt
from attack.evaluation.config import epsilon_name
from attack.evaluation.statistics import share
from attack.report.groups import Entry, Group
from attack.report.html import folded, name_entry, passed_or_failed, quiet, section, table


def attacks(groups: Sequence[Group]) -> str:
    """Return each model's attacks, folded."""
    note = quiet(
        "Each row is one attack alone, on the images it looked at; images that the model gets wrong as they are count "
        "as errors. AutoAttack meets only what withstood all before it. A minimal-norm attack looks for the nearest "
        "error: half of the images have one nearer than the median."
    )
    tables = [_attack_table(group, entry) for group in groups for entry in group.entries if entry.result.attempts]
    return section("Every attack", note, *tables, anchor="attacks")


def _attack_table(group: Group, entry: Entry) -> str:
    header = ["attack", "kind", "radius", "still right", "images", "passes forward / back", "seconds"]
    rows = [_attack_row(attempt) for attempt in entry.result.attempts if attempt.kind != "transfer"]
    return folded(f"{name_entry(entry)}, {escape(group.title)}", table(header, rows))


def _attack_row(attempt: Attempt) -> list[str]:
    looked_at = int(attempt.settings.get("images", len(attempt.robust)))
    if attempt.epsilon is None:
        norm = {"l2": "L2", "linf": "L∞"}[attempt.norm]
        radius, found = f"smallest {norm}", _median(attempt, looked_at)
    else:
        radius, found = epsilon_name(attempt.epsilon), str(share(attempt.robust[:looked_at]))
    passes = f"{attempt.forwards:,} / {attempt.backwards:,}"
    return [escape(attempt.name), attempt.kind, radius, found, str(looked_at), passes, f"{attempt.seconds:.1f}"]


def _median(attempt: Attempt, looked_at: int) -> str:
    middle = float(np.median(attempt.distance[:looked_at]))
    size = f"{255 * middle:.2f}/255" if attempt.norm == "linf" else f"{middle:.3f}"
    return f"median {size}" if np.isfinite(middle) else "found none for half of the images"


def checks(groups: Sequence[Group]) -> str:
    """Return each model's checks, folded; open where one failed."""
    return section("Checks", *(_checks(group, entry) for group in groups for entry in group.entries), anchor="checks")


def _checks(group: Group, entry: Entry) -> str:
    found = sorted(entry.result.checks, key=lambda check: check.passed)
    failed = sum(not check.passed for check in found)
    word = f'<span class="fail">{failed} failed</span>' if failed else f'<span class="pass">{len(found)} passed</span>'
    rows = [
        [escape(check.name), passed_or_failed(check.passed), escape(check.detail), escape(check.meaning)]
        for check in found
    ]
    title = f"{name_entry(entry)}, {escape(group.title)}: {word}"
    return folded(title, table(["check", "result", "numbers", "what a failure would mean"], rows), opened=bool(failed))


def transfers(groups: Sequence[Group]) -> str:
    """Return who withstood whose adversarial images, where `attack transfer` was run."""
    note = quiet(
        "Rows: the model that was attacked by PGD. Columns: the model that saw the images; the share of all "
        "images that it classifies correctly then. A model that falls to others’ images but not to its own hides its "
        "gradients."
    )
    tables = [_transfer_table(group, epsilon) for group in groups for epsilon in group.epsilons]
    return section("Transfer between models", note if any(tables) else "", *tables, anchor="transfer")


def _transfer_table(group: Group, epsilon: float) -> str:
    found = {entry.label: _transferred(entry, epsilon) for entry in group.entries}
    sources = list(dict.fromkeys(name for rows in found.values() for name in rows))
    if not sources:
        return ""
    rows = [[escape(name), *(_transfer_cell(found, entry, name) for entry in group.entries)] for name in sources]
    header = ["attacked", *(escape(entry.label) for entry in group.entries)]
    return f"<h3>{escape(group.title)}, L∞ {epsilon_name(epsilon)}</h3>{table(header, rows)}"


def _transfer_cell(found: Mapping[str, Mapping[str, str]], entry: Entry, source: str) -> str:
    """Return what a model withstood of a source: nothing is known of itself, or where it took no part."""
    return found[entry.label].get(source, "its own" if found[entry.label] else "–")


def _transferred(entry: Entry, epsilon: float) -> dict[str, str]:
    return {
        attempt.name.removeprefix("transfer:"): f"{100 * np.mean(attempt.robust):.1f} %"
        for attempt in entry.result.attempts
        if attempt.kind == "transfer" and attempt.epsilon == epsilon
    }
