"""Answers of several studies side by side, as Markdown: claims in lines, studies in columns.

    python elsewhere.py ../claims/answer ../mobilenet/answer ...

A study is called by the folder around its answer.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def beside(folders: Sequence[Path]) -> str:
    """Return a table of the claims that more than one study in `folders` tried; each is named after its folder."""
    names = [folder.resolve().parent.name for folder in folders]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, folder in zip(names, folders, strict=True):
        for each in json.loads((folder / "answer.json").read_text(encoding="utf-8")):
            row = found.setdefault((f"{each['claim']} {each['compared']}", each["measure"]), {})
            row[name] = cell(each)
    lines = [f"| claim | measure | {' | '.join(names)} |", "|" + " --- |" * (2 + len(names))]
    for (claim, measure), row in sorted(found.items(), key=lambda item: item[0][0]):
        if len(row) > 1:
            lines.append(f"| {claim} | {measure} | {' | '.join(row.get(name, '') for name in names)} |")
    return "\n".join(lines) + "\n"


def cell(answer: dict[str, Any]) -> str:
    """Return a difference, in points, its interval, and the word for it."""
    return f"{answer['difference']:+.1f} [{answer['low']:+.1f}, {answer['high']:+.1f}] **{answer['word']}**"


def main(folders: list[Path]) -> None:
    """Print the table."""
    typer.echo(beside(folders), nl=False)


if __name__ == "__main__":
    typer.run(main)
