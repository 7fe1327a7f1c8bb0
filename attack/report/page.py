"""The report as one HTML page: every function returns a piece of HTML, with text escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from attack.report.examples import Example
from attack.report.groups import Group
from attack.report.measurements import Measurement
from attack.report.page_attacks import attacks, checks, transfers
from attack.report.page_beyond import corruptions, explanations, shape_bias
from attack.report.page_paper import clean_tables, examples, figures
from attack.report.page_protocol import protocol, provenance
from attack.report.page_verdicts import verdicts

TITLE = "Robustness, and how far to believe it"
CAVEATS = (
    "No attack proves robustness: the numbers are upper bounds, and stronger attacks can only lower them. Logit "
    "pairing has been broken before (Engstrom et al. 2018).",
    "The paper’s own attack moves no pixel by more than {levels:.2f}/255 and never restarts; robustness is commonly "
    "judged at 8/255, by many attacks. Its curves are below the verdicts, because they prove little alone.",
    "Intervals are over images. Another training seed can move a number by more: train several.",
)


@dataclass(frozen=True)
class Extras:
    """What a report shows beside results: measurements of the same models, the picture of `attack explain`, and pairs.

    `pairs` are examples by the name of their shard folder.
    """

    measurements: Sequence[Measurement] = ()
    explanations: bytes | None = None
    pairs: Sequence[tuple[str, Sequence[Example]]] = ()


def render_page(groups: Sequence[Group], extras: Extras) -> str:
    """Return the whole page; it refers to nothing on the network."""
    template = Template(files("attack.report").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=TITLE,
        lead=_lead(groups),
        sections="".join(
            (
                verdicts(groups),
                _caveats(groups),
                transfers(groups),
                figures(groups),
                clean_tables(groups),
                shape_bias(groups, extras.measurements),
                corruptions(groups, extras.measurements),
                explanations(extras.explanations),
                *(examples(name, shown) for name, shown in extras.pairs),
                checks(groups),
                attacks(groups),
                protocol(groups),
                provenance(groups),
            )
        ),
    )


def _lead(groups: Sequence[Group]) -> str:
    """Return how many models came to which verdict, in a sentence."""
    words = [entry.result.verdict.word for group in groups for entry in group.entries]
    counted = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    models = "One model" if len(words) == 1 else f"{len(words)} models"
    failed = sum(not check.passed for group in groups for entry in group.entries for check in entry.result.checks)
    link = f'<a class="fail" href="#checks">{failed} checks failed</a>' if failed > 1 else ""
    link = link or ('<a class="fail" href="#checks">1 check failed</a>' if failed else "all checks passed")
    return f"<p>{models} attacked: {escape(counted)}; {link}.</p>"


def _caveats(groups: Sequence[Group]) -> str:
    texts = (text.format(levels=255 * groups[0].largest_linf) for text in CAVEATS)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in texts)
    return f'<div class="caveat"><p><strong>What this does not show</strong></p>{paragraphs}</div>'
