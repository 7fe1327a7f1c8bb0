"""Errors on corrupted images by kind of model, as Markdown: the mean over severities and seeds, and their mean's range.

    python corruptions.py CORRUPTIONS

Files are those of `attack corruptions` and called NAME-SEED.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer

Documents = dict[str, list[dict[str, Any]]]


def read(folder: Path) -> Documents:
    """Return the documents of all models by NAME."""
    found: Documents = {}
    for path in sorted(folder.glob("*.json")):
        found.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text(encoding="utf-8")))
    return found


def table(models: Documents) -> str:
    """Return a line a kind of model, errors in per cent."""
    names = list(dict.fromkeys(record["corruption"] for record in next(iter(models.values()))[0]["records"]))
    head = ("models", "seeds", "clean", *names, "mean of all")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, documents in models.items():
        records = [record for document in documents for record in document["records"]]
        clean = np.mean([document["clean_error"]["share"] for document in documents])
        errors = [np.mean([each["error"]["share"] for each in records if each["corruption"] == kind]) for kind in names]
        means = [100 * document["mean_corruption_error"]["mean"] for document in documents]
        shares = [f"{100 * share:.1f}" for share in (clean, *errors)]
        last = f"{np.mean(means):.1f} ({min(means):.1f} to {max(means):.1f})"
        lines.append(f"| {' | '.join([name, str(len(documents)), *shares, last])} |")
    return "\n".join(lines) + "\n"


def main(folder: Path) -> None:
    """Print the table."""
    models = read(folder)
    if not models:
        raise typer.BadParameter(f"{folder} holds no results of `attack corruptions`.")
    typer.echo(table(models), nl=False)


if __name__ == "__main__":
    typer.run(main)
