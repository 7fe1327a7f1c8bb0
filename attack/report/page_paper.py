"""The paper's figures and tables, made again, with the numbers that it prints beside ours."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from attack.evaluation.estimates import accuracy_at, mean_accuracy
from attack.evaluation.summary import whole_split
from attack.report.examples import Example
from attack.report.figures import Panel, inline_svg, panel_figure
from attack.report.groups import Entry, Group
from attack.report.html import folded, name_entry, quiet, section, table

# Guan et al. (2022), Tables 1 and 2, in percent: stylized pairing, normal.
PAPER_CLEAN = {
    "CIFAR-10": {"googlenet": (94.05, 95.01), "mobilenet": (92.00, 93.29), "resnet34": (94.92, 95.59)},
    "CIFAR-100": {"googlenet": (78.72, 78.25), "mobilenet": (75.44, 74.80), "resnet34": (78.65, 80.14)},
    "ImageNet": {"googlenet": (77.74, 79.12), "mobilenet": (73.24, 74.80), "resnet34": (77.54, 79.00)},
}
PAIRS = {3: ("normal", "pairing"), 4: ("pairing", "adversarial"), 5: ("stylized", "pairing")}
QUESTIONS = {
    3: "pairing against normal training",
    4: "pairing against adversarial training",
    5: "with and without the pairing loss",
}
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the path's length


def figures(groups: Sequence[Group]) -> str:
    """Return the curves of the paper's path: all models, then Figures 3 to 5 and 7 where their models are there."""
    drawn = [_group(number, group) for number, group in enumerate(groups) if group.ranked]
    note = quiet(
        "The conditional curve, as in the paper: only images that every model shown of a group classifies correctly, "
        "so that all start at 100 %. Each image’s record of right and wrong is interpolated linearly against its "
        "distance. Shaded: 95 % intervals over images. A line ends where no more than half of its images reach. The "
        "paper prints no numbers for its figures. <code>curves.csv</code> holds every point."
    )
    return section("The paper’s attack: Figures 3 to 5 and 7", note if drawn else "", *drawn, anchor="path")


def _group(number: int, group: Group) -> str:
    if not group.common:
        return f"<h3>{escape(group.title)}</h3>" + quiet("No image is classified correctly by all models.")
    everyone = _panels(group, group.ranked, f"g{number}")
    pieces = [
        f"<h3>{escape(group.title)}, {len(group.common)} common images</h3>{everyone}",
        *_pairs(number, group),
        folded(
            "All images that were looked at, clean errors counted",
            _panels(group, group.ranked, f"c{number}", common=False),
        ),
        folded("The authors’ interpolator", _panels(group, group.ranked, f"a{number}", interpolator="authors")),
        _distances(group),
    ]
    return "".join(pieces)


def _pairs(number: int, group: Group) -> Iterator[str]:
    """Yield Figures 3, 4, 5 and 7: what they compare, on the same common images."""
    methods = {entry.result.method for entry in group.ranked}
    for figure, pair in PAIRS.items():
        if set(pair) <= methods and len(group.ranked) > 2:
            shown = [entry for entry in group.ranked if entry.result.method in pair]
            yield folded(f"Figure {figure}: {QUESTIONS[figure]}", _panels(group, shown, f"f{figure}-{number}"))
    styles = [entry for entry in group.ranked if entry.result.method == "pairing"]
    if len({entry.result.trained_on for entry in styles}) > 1:
        yield folded("Figure 7: style sets compared, pairing", _panels(group, styles, f"f7-{number}"), opened=True)


def _panels(
    group: Group, entries: Sequence[Entry], name: str, *, common: bool = True, interpolator: str = "linear"
) -> str:
    panels = []
    for norm in ("l2", "linf"):
        panel = Panel(group, tuple(entries), norm, interpolator, common)
        text = escape(f"Accuracy against {norm} distance, {group.title}, {interpolator}")
        panels.append(inline_svg(panel_figure([panel]), f"{name}-{norm}", text))
    return f'<div class="panels">{"".join(panels)}</div>'


def _distances(group: Group) -> str:
    """Return the accuracy on the common images at fifths of the path's length."""
    distances = [part * group.largest_linf for part in SHARES]
    header = ["model", *(f"{255 * linf:.2f}/255" for linf in distances), "mean over the range"]
    rows = []
    for entry in group.ranked:
        records = entry.records(group.common)
        shares = [*(accuracy_at(records, linf) for linf in distances), mean_accuracy(records, group.largest_linf)]
        rows.append([name_entry(entry), *map(str, shares)])
    return folded("In numbers, L∞", table(header, rows))


def clean_tables(groups: Sequence[Group]) -> str:
    """Return Tables 1 and 2: clean accuracy of pairing and normal training, ours and the paper's where it has any."""
    shown = [(group.arch, entry) for group in groups for entry in group.entries]
    printed = {name: [_printed(numbers, arch, entry) for arch, entry in shown] for name, numbers in PAPER_CLEAN.items()}
    known = {name: column for name, column in printed.items() if any(column)}
    header = ["model", "ours, whole test split", *(f"paper, {name}" for name in known)]
    rows = [
        [
            f"{name_entry(entry)} {escape(arch)}",
            str(whole_split(entry.result)),
            *(column[row] or "–" for column in known.values()),
        ]
        for row, (arch, entry) in enumerate(shown)
    ]
    note = "The paper’s models are fine-tuned from ImageNet weights at 224 px; it chose epochs on the test images."
    return section("Clean accuracy: Tables 1 and 2", table(header, rows), quiet(note) if known else "", anchor="clean")


def _printed(numbers: Mapping[str, tuple[float, float]], arch: str, entry: Entry) -> str:
    """Return the paper's number for a model, nothing where it has none."""
    pair = numbers.get("mobilenet" if arch.startswith("mobilenet") else arch)
    column = {"pairing": 0, "normal": 1}.get(entry.result.method)
    return "" if pair is None or column is None else f"{pair[column]:.2f} %"


def examples(name: str, pairs: Sequence[Example]) -> str:
    """Return Figure 2 for one shard folder: originals beside their stylized copies."""
    cells = "".join(
        f'<figure><div class="pair"><img alt="original" src="{pair.original}">'
        f'<img alt="stylized" src="{pair.styled}"></div>'
        f"<figcaption>{escape(pair.class_name)}</figcaption></figure>"
        for pair in pairs
    )
    return section(f"Figure 2: stylized pairs, {name}", f'<div class="examples">{cells}</div>')
