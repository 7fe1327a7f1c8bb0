"""The study's answer as a picture: every claim's difference with its 95 % interval, in the colour of its word.

python figure.py ANSWER.json PICTURE.png
"""

import json
from pathlib import Path
from typing import Any

import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = {"supported": "#2b8a3e", "refuted": "#d1242f", "open": "#57606a"}
MARKERS = {"supported": "o", "refuted": "X", "open": "s"}


def draw(answers: list[dict[str, Any]]) -> Figure:
    """Return the figure: a line an answer, from above."""
    figure = Figure(figsize=(8.2, 0.9 + 0.36 * len(answers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(0, color="#8c959f", linewidth=1)
    for place, each in enumerate(answers):
        look: dict[str, Any] = {"color": COLOURS[each["word"]], "marker": MARKERS[each["word"]]}
        axes.plot([each["low"], each["high"]], [place, place], color=look["color"], linewidth=2)
        axes.plot(each["difference"], place, markersize=7, linestyle="none", **look)
    axes.set_yticks(
        range(len(answers)), [f"{each['claim']}  {each['compared']}, {each['measure']}" for each in answers]
    )
    axes.set_ylim(len(answers) - 0.5, -0.5)
    axes.set_xlabel("difference in percentage points, with its 95 % interval")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    words = [word for word in COLOURS if any(each["word"] == word for each in answers)]
    keys = [Line2D([], [], color=COLOURS[word], marker=MARKERS[word], linewidth=2, label=word) for word in words]
    figure.legend(handles=keys, loc="outside upper center", ncols=len(words), frameon=False)
    return figure


def main(answer: Path, picture: Path) -> None:
    """Draw `answer.json`."""
    draw(json.loads(answer.read_text(encoding="utf-8"))).savefig(picture, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
