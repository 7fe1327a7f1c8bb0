"""Accuracy against distance, drawn without global state and to the same bytes each time."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from attack.evaluation.interpolation import Curve
from attack.report.summary import Group

INK = "#1f2328"  # text and axes; a page may replace it
XLABELS = {"l2": "L2 distance from the original", "linf": "L∞ distance from the original (1 = full pixel range)"}


@dataclass(frozen=True)
class LineStyle:
    """Colour, dash pattern and marker of a method; no two share a dash pattern, so that colour is never needed."""

    colour: str
    dashes: str | tuple[int, tuple[float, ...]]
    marker: str


# The paper's colours, darkened to be read on white: cyan, orange (ours), red and green.
METHOD_STYLES = {
    "normal": LineStyle("#0e8ca3", (0, (6, 2)), "o"),
    "stylized": LineStyle("#d97904", (0, (1, 1.4)), "s"),
    "pairing": LineStyle("#d1242f", "solid", "D"),
    "adversarial": LineStyle("#2b8a3e", (0, (7, 2, 1.5, 2)), "^"),
}
OTHER_STYLE = LineStyle("#7048c8", (0, (3, 1.5)), "v")
COLOURS = {**{style.colour: name for name, style in METHOD_STYLES.items()}, OTHER_STYLE.colour: "other"}


def group_figure(
    group: Group, norms: Sequence[str] = ("l2", "linf"), *, interpolator: str = "linear", title: bool = True
) -> Figure:
    """Draw one panel per norm with a line and a band of one standard error per model, labelled at its end."""
    literal = rc_context({"text.parse_math": False})  # a name's $ is a letter
    with literal, rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}):
        figure = Figure(figsize=(5.4 * len(norms), 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(f"Accuracy under attack: {group.title}", fontsize=12, fontweight="bold")
        for axes, norm in zip(figure.subplots(1, len(norms), squeeze=False)[0], norms, strict=True):
            _draw_panel(axes, group, norm, interpolator)
    return figure


def _draw_panel(axes: Axes, group: Group, norm: str, interpolator: str) -> None:
    largest = group.largest[norm] or 1.0  # a path that never moved has no length
    _prepare_axes(axes, norm, largest)
    ends = []
    for entry in group.entries:
        style = METHOD_STYLES.get(entry.result.method, OTHER_STYLE)
        x, y, error = _measured(entry.curve(interpolator, norm, largest))
        low = [max(0.0, mean - spread) for mean, spread in zip(y, error, strict=True)]
        high = [min(1.0, mean + spread) for mean, spread in zip(y, error, strict=True)]
        axes.fill_between(x, low, high, color=style.colour, alpha=0.14, linewidth=0)
        axes.plot(
            x, y, color=style.colour, linestyle=style.dashes, linewidth=1.8, marker=style.marker, markersize=4.5,
            markevery=(0.06, 0.16),
        )  # fmt: skip
        ends.append((y[-1], x[-1], entry.label, style.colour))
    _label_ends(axes, sorted(ends))


def _measured(curve: Curve) -> tuple[list[float], list[float], list[float]]:
    """Cut a curve where no more than half of its images reach: beyond, most of it would be held, not measured."""
    enough = sum(2 * images > max(curve.images) for images in curve.images)
    return curve.distance[:enough], curve.accuracy[:enough], curve.standard_error[:enough]


def _prepare_axes(axes: Axes, norm: str, largest: float) -> None:
    axes.set(xlabel=XLABELS[norm], ylabel="Accuracy", xlim=(0, largest), ylim=(-0.02, 1.03))
    axes.set_title({"l2": "L2", "linf": "L∞"}[norm], loc="left", fontsize=10, fontweight="bold", pad=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    if norm == "linf":
        for level in range(1, int(largest * 255 + 1e-9) + 1)[:4]:
            axes.axvline(level / 255, color=INK, alpha=0.35, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.text(level / 255, 1.035, f"{level}/255", color=INK, alpha=0.75, fontsize=8, ha="center", va="bottom")


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name to the right of the axes at its end's height, pushed apart where they would touch."""
    heights = _spread([end[0] for end in ends], gap=0.075)
    for height, (y, x, label, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            label, xy=(x, y), xytext=(1.05, height), textcoords=axes.get_yaxis_transform(), color=colour, va="center",
            fontweight="bold", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "relpos": (0, 0.5)},
        )  # fmt: skip


def _spread(heights: list[float], gap: float) -> list[float]:
    """Move ascending heights up until neighbours are `gap` apart, then down again where they left the axes."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = 1.0
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Encode as `png` or `svg`, without date or version, so that equal data give equal bytes."""
    metadata = {"svg": {"Date": None, "Creator": None, "Format": None, "Type": None}, "png": {"Software": None}}[kind]
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "attack", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for a letter that the font lacks
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return an <svg> element for a page: its own ids, no background, and the page's colours.

    Ink becomes `currentColor` and a method's colour the CSS variable `--METHOD`, for light and dark pages.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    text = figure_bytes(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace(INK, "currentColor")
    for colour, method in COLOURS.items():
        text = text.replace(colour, f"var(--{method}, {colour})")
    return text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1).strip()
