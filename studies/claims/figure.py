"""Studies' answers as a picture: every claim's difference with its 95 % interval, in the colour of its word.

python figure.py ANSWER.json ... PICTURE.png
"""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import typer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = {"supported": "#2b8a3e", "refuted": "#d1242f", "open": "#57606a"}
MARKERS = {"supported": "o", "refuted": "X", "open": "s"}


def draw(studies: Mapping[str, list[dict[str, Any]]]) -> Figure:
    """Return the figure: a panel a study, side by side, with a line a claim and measure, from above."""
    rows = list(dict.fromkeys(map(row_name, chain.from_iterable(studies.values()))))
    figure = Figure(figsize=(3.6 + 4.6 * len(studies), 0.9 + 0.36 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(studies), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, answers) in zip(panels, studies.items(), strict=True):
        draw_panel(axes, {rows.index(row_name(each)): each for each in answers})
        axes.set_title(name if len(studies) > 1 else "")
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("difference in percentage points, with its 95 % interval", fontsize="medium")
    found = {each["word"] for each in chain.from_iterable(studies.values())}
    words = [word for word in COLOURS if word in found]
    keys = [Line2D([], [], color=COLOURS[word], marker=MARKERS[word], linewidth=2, label=word) for word in words]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(words), frameon=False)
    return figure


def draw_panel(axes: Axes, answers: Mapping[int, dict[str, Any]]) -> None:
    """Draw each answer in its row."""
    axes.axvline(0, color="#8c959f", linewidth=1)
    for place, each in answers.items():
        look: dict[str, Any] = {"color": COLOURS[each["word"]], "marker": MARKERS[each["word"]]}
        axes.plot([each["low"], each["high"]], [place, place], color=look["color"], linewidth=2)
        axes.plot(each["difference"], place, markersize=7, linestyle="none", **look)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def row_name(answer: dict[str, Any]) -> str:
    """Return what a row compares."""
    return f"{answer['claim']}  {answer['compared']}, {answer['measure']}"


def main(answers: list[Path], picture: Path) -> None:
    """Draw every `answer.json`, called by the folder around its own."""
    studies = {path.resolve().parent.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in answers}
    draw(studies).savefig(picture, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
