"""Figures of the report, drawn to the same bytes each time."""

import base64
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from attack.attacks import NORM_NAMES, Norm
from attack.evaluation.explain import Explanation
from attack.evaluation.paper_path import Curve
from attack.report.groups import Entry, Group
from stylize.console import InputError, literal
from stylize.shards import SampleLocation, index_shard, open_shard, read_sample
from stylize.shards.decode import PictureError, decode_picture, encode_png
from stylize.shards.manifest import read_manifest

INK = "#1f2328"  # text and axes; a page may replace it
XLABELS = {
    "l1": "L1 distance from the original",
    "l2": "L2 distance from the original",
    "linf": "L∞ distance from the original (1 = full pixel range)",
}


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
DASHES: tuple[tuple[int, tuple[float, ...]], ...] = ((0, (4, 1)), (0, (2, 1)), (0, (5, 1, 1, 1)), (0, (1, 2.5)))
MARKERS = ("P", "X", "*", "h")
LEGEND_WIDTH = 52  # letters, where a name is broken
COLOURS = {**{style.colour: name for name, style in METHOD_STYLES.items()}, OTHER_STYLE.colour: "other"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes in one norm: a curve for each model, up to a distance.

    A `security` panel has marks at the attacked `radii` and a legend; another has each name at the end of its line.
    """

    norm: Norm
    lines: Sequence[tuple[Entry, Curve]]
    largest: float
    security: bool = False
    radii: Sequence[float] = ()

    @property
    def legend_columns(self) -> int:
        """Columns of the legend below: two where all names are short."""
        return 2 if all(len(entry.label) <= LEGEND_WIDTH // 2 for entry, _ in self.lines) else 1


def path_panel(
    group: Group, entries: Sequence[Entry], norm: Norm, *, interpolator: str = "linear", common: bool = True
) -> Panel:
    """Return accuracy along the paper's path (see `Group.curve`); a path that never moved has no length."""
    lines = [(entry, group.curve(entry, norm, interpolator=interpolator, common=common)) for entry in entries]
    return Panel(norm, lines, group.largest(norm) or 1.0)


def security_panel(group: Group, norm: Norm) -> Panel:
    """Return robust accuracy against epsilon of all models of a group."""
    lines = group.security_lines(norm)
    largest = float(group.security_points[norm][-1])
    return Panel(norm, lines, 1.02 * largest or 1.0, True, [epsilon for each, epsilon in group.radii if each == norm])


def panel_figure(panels: Sequence[Panel], title: str = "") -> Figure:
    """Draw panels beside each other, with a line and a band of the 95 % interval per model, labelled at its end."""
    with (
        rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}),
        rc_context({"text.parse_math": False}),  # a name's $ is a letter
    ):
        rows = max(len(panel.lines) / panel.legend_columns if panel.security else 0 for panel in panels)
        figure = Figure(figsize=(5.4 * len(panels), 3.9 + 0.2 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, fontsize=12, fontweight="bold")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, panel)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    _prepare_axes(axes, panel.norm, panel.largest)
    entries = [entry for entry, _ in panel.lines]
    ends = []
    for entry, curve in panel.lines:
        style = _style(entry, entries)
        if panel.security:  # up to the first point where nothing is left
            enough = curve.accuracy.index(0) + 1 if 0 in curve.accuracy else len(curve.accuracy)
        else:  # where more than half of the images reach: beyond, most would be held, not measured
            enough = max(1, sum(2 * images > max(curve.images) for images in curve.images))
        x, y = curve.distance[:enough], curve.accuracy[:enough]
        marks = [x.index(radius) for radius in panel.radii if radius in x] if panel.security else (0.06, 0.16)
        axes.fill_between(x, curve.low[:enough], curve.high[:enough], color=style.colour, alpha=0.14, linewidth=0)
        axes.plot(
            x, y, color=style.colour, linestyle=style.dashes, linewidth=1.8, marker=style.marker, markersize=4.5,
            markevery=marks, label=fill(entry.label, LEGEND_WIDTH),
        )  # fmt: skip
        ends.append((y[-1], x[-1], entry.label, style.colour))
    if panel.security:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=panel.legend_columns, frameon=False, fontsize=9,
            labelcolor="linecolor", handlelength=3,
        )  # fmt: skip
    else:
        _label_ends(axes, sorted(ends))


def _style(entry: Entry, entries: Sequence[Entry]) -> LineStyle:
    """Return the method's style; models that share its colour differ in dashes and marker."""
    styles = [METHOD_STYLES.get(other.result.method, OTHER_STYLE) for other in entries]
    own = entries.index(entry)
    place, style = styles[:own].count(styles[own]), styles[own]
    return replace(style, dashes=DASHES[place - 1], marker=MARKERS[place - 1]) if 0 < place <= len(DASHES) else style


def _prepare_axes(axes: Axes, norm: Norm, largest: float) -> None:
    axes.set(xlabel=XLABELS[norm], ylabel="Accuracy", xlim=(0, largest), ylim=(-0.02, 1.03))
    axes.set_title(NORM_NAMES[norm], loc="left", fontsize=10, fontweight="bold", pad=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    if norm == "linf":
        step = max(1, 2 ** math.ceil(math.log2(255 * largest / 4)))  # at most four whole levels, evenly spaced
        for level in range(step, int(255 * largest + 1e-9) + 1, step):
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
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1).strip()


MOST_CLASSES = 12
LARGEST_SIDE = 160


@dataclass(frozen=True)
class Example:
    """An original and its first stylized copy as `data:` URLs of PNG images."""

    class_name: str
    original: str
    styled: str


def read_examples(shards: Path) -> list[Example]:
    """Return the first pair of each class, at most twelve; raise `InputError` where shards are missing or damaged."""
    manifest = read_manifest(shards)
    wanted = min(len(manifest.class_names), MOST_CLASSES)
    first: dict[int, SampleLocation] = {}
    for path in manifest.paths(shards, "train"):
        for location in index_shard(path):
            if location.styled and location.label < wanted:
                first.setdefault(location.label, location)
            if len(first) == wanted:
                break
    examples = []
    for label, location in sorted(first.items()):
        with open_shard(location.shard) as file:
            sample = read_sample(file, location)
        try:
            pair = _data_url(sample.content), _data_url(sample.styled[0])
        except PictureError as error:
            raise InputError(f"{location.shard}: sample {location.key} {error}: make the shard again.") from None
        examples.append(Example(literal(manifest.class_names[label]), *pair))
    return examples


def _data_url(encoded: bytes) -> str:
    picture = decode_picture(encoded)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return "data:image/png;base64," + base64.b64encode(encode_png(picture)).decode("ascii")


def read_png(path: Path) -> bytes:
    """Return the bytes of a PNG picture; raise `InputError` where there is none."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run `attack explain` first.") from None
    if not payload.startswith(b"\x89PNG\r\n"):
        raise InputError(f"{path} is no PNG picture: give the one that `attack explain` wrote.")
    return payload


SIDE = 160  # pixels at least, so that outlines are thin on small images
SHOWN_SHARE = 0.15  # of the superpixels, those with the largest positive weights
OUTLINE = (255, 214, 0)
PALE = 0.25  # of the contrast left outside


def explanation_overlay(explanation: Explanation, model: int) -> NDArray[np.uint8]:
    """Return the image, enlarged to 160 pixels or more, with the superpixels outlined that speak most for its class.

    All but those with the largest positive weights, at most 15 % of them, are pale grey.
    """
    scale = -(-SIDE // min(explanation.segments.shape))
    pixels = explanation.pixels.repeat(scale, 0).repeat(scale, 1)
    segments = explanation.segments.repeat(scale, 0).repeat(scale, 1)
    weights = explanation.weights[model]
    best = np.argsort(-weights, kind="stable")[: max(1, round(SHOWN_SHARE * len(weights)))]
    shown = np.isin(segments, best[weights[best] > 0])
    grey = pixels.mean(2, keepdims=True)
    overlay = np.where(shown[..., None], pixels, 255 - PALE * (255 - grey)).round().astype(np.uint8)
    inside = np.pad(shown, 1, mode="edge")
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    overlay[shown & ~core] = OUTLINE
    return overlay


def explanations_png(explanations: Sequence[Explanation], names: Sequence[str]) -> bytes:
    """Draw one row an image and one column a model, named; the same arguments give the same bytes."""
    columns = ("image", *names)
    figure = Figure(figsize=(2.1 * len(columns), 2.1 * len(explanations) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(explanations), len(columns), squeeze=False)
    for row, explanation in zip(grid, explanations, strict=True):
        overlays = [explanation_overlay(explanation, model) for model in range(len(names))]
        for axes, picture in zip(row, (explanation.pixels, *overlays), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(explanation.class_name, fontsize=9, parse_math=False)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=9, parse_math=False, wrap=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
