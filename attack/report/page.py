"""The report as one HTML page: every function returns a piece of HTML, with text escaped."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from attack.evaluation.estimates import accuracy_at, mean_accuracy
from attack.report.examples import Example
from attack.report.figures import group_figure, inline_svg
from attack.report.page_tables import checks_table, clean_table, distance_table, name_entry, protocol_text, provenance
from attack.report.summary import Entry, Group

TITLE = "Accuracy under attack"
CAVEATS = (
    "The whole path is {steps} steps of {step_size:g}, so no pixel moves by more than {linf:g}, which is "
    "{levels:.2f}/255; robustness is commonly judged at 8/255.",
    "This curve alone does not prove that a model is robust. A single sign-gradient path without restarts is a weak "
    "attack, and stronger ones usually find more errors.",
    "Gradient masking is possible: a model whose gradients say little looks robust to this attack without being so. "
    "Logit pairing has been broken before (Engstrom et al. 2018).",
)


def render_page(groups: Sequence[Group], examples: Sequence[tuple[str, Sequence[Example]]]) -> str:
    """Return the whole page; it refers to nothing on the network."""
    template = Template(files("attack.report").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=TITLE,
        summary=_summary(groups),
        examples="".join(_examples(name, pairs) for name, pairs in examples),
        figures="".join(_figure(number, group) for number, group in enumerate(groups)),
        clean=clean_table(groups),
        distances="".join(distance_table(group) for group in groups),
        checks="".join(checks_table(group, entry) for group in groups for entry in group.entries),
        protocol=protocol_text(groups[0].entries[0]),
        provenance="".join(provenance(group) for group in groups),
    )


def _summary(groups: Sequence[Group]) -> str:
    entries = [entry for group in groups for entry in group.entries]
    protocol = entries[0].result.document["protocol"]
    counts = sorted({entry.result.document["candidates"]["used"] for entry in entries})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    linf = entries[0].result.largest_linf
    caveats = [
        text.format(steps=protocol["steps"], step_size=protocol["step_size"], linf=linf, levels=255 * linf)
        for text in CAVEATS
    ]
    failed = sum(not check["passed"] for entry in entries for check in entry.result.document["checks"])
    checks = "All sanity checks passed."
    if failed:
        checks = f'<a class="fail" href="#checks">{failed} sanity {"check" if failed == 1 else "checks"} failed.</a>'
    models = "One model was" if len(entries) == 1 else f"{len(entries)} models were"
    return (
        f"<p>{models} attacked with the paper’s protocol, each on {images} test images that it classifies correctly: "
        f"{protocol['steps']} small steps up the gradient, and after every step a look whether the answer is still "
        f"right. {checks}</p>"
        + "<p>Ranked by accuracy averaged over all distances up to the full strength; ± is one standard error over "
        + "images, and says nothing about other training seeds.</p>"
        + f'<div class="ranks">{"".join(_ranking(group) for group in groups)}</div>'
        + '<div class="caveat"><p><strong>What this does not show</strong></p>'
        + "".join(f"<p>{escape(caveat)}</p>" for caveat in caveats)
        + "</div>"
    )


def _ranking(group: Group) -> str:
    """Rank a group's models, and say whether the noise allows to tell the first two apart."""
    linf = group.largest["linf"]
    items = "".join(
        f"<li>{name_entry(entry)}<br>{mean_accuracy(entry.result)} on average, "
        f"{accuracy_at(entry.result, linf)} at full strength</li>"
        for entry in group.ranking
    )
    return f"<section><h3>{escape(group.title)}</h3><ol>{items}</ol>{_gap(group.ranking)}</section>"


def _gap(ranking: Sequence[Entry]) -> str:
    if len(ranking) < 2:
        return ""
    first, second = mean_accuracy(ranking[0].result), mean_accuracy(ranking[1].result)
    gap, noise = first.mean - second.mean, (first.error**2 + second.error**2) ** 0.5
    verdict = "more than" if gap > 2 * noise else "not more than"
    text = f"The first two are {100 * gap:.1f} points apart: {verdict} twice the standard error of {100 * noise:.1f}."
    return f'<p class="quiet">{text}</p>'


def _examples(name: str, pairs: Sequence[Example]) -> str:
    cells = "".join(
        f'<figure><div class="pair"><img alt="original" src="{pair.original}">'
        f'<img alt="stylized" src="{pair.styled}"></div>'
        f"<figcaption>{escape(pair.class_name)}</figcaption></figure>"
        for pair in pairs
    )
    return f'<h2>Stylized pairs: {escape(name)}</h2><div class="examples">{cells}</div>'


def _figure(number: int, group: Group) -> str:
    """Return the linear panels, and those of the authors' interpolator folded below."""
    return (
        f"<h3>{escape(group.title)}</h3>{_panels(group, 'linear', f'g{number}')}"
        f"<details><summary>The same with the authors’ interpolator</summary>{_panels(group, 'authors', f'a{number}')}"
        "</details>"
    )


def _panels(group: Group, interpolator: str, name: str) -> str:
    panels = (
        inline_svg(
            group_figure(group, [norm], interpolator=interpolator, title=False),
            f"{name}-{norm}",
            escape(f"Accuracy against {norm} distance, {group.title}, {interpolator}"),
        )
        for norm in ("l2", "linf")
    )
    return f'<div class="panels">{"".join(panels)}</div>'
