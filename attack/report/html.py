"""Pieces of HTML that the page is made of; text is escaped where it comes in."""

from collections.abc import Iterable, Sequence
from html import escape

from attack.report.figures import METHOD_STYLES
from attack.report.groups import Entry


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of ready HTML cells whose first column names the row.

    Every cell carries its column's name, which the page shows beside it where it is too narrow for columns.
    """
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(_row(header, row) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(header: Sequence[str], row: Sequence[str]) -> str:
    first, *rest = row
    cells = (f'<td data-label="{name}">{cell}</td>' for name, cell in zip(header[1:], rest, strict=True))
    return f"<tr><th>{first}</th>{''.join(cells)}</tr>"


def section(title: str, *parts: str, anchor: str = "") -> str:
    """Return a headed section, or nothing where all its parts are empty."""
    content = "".join(parts)
    name = f' id="{anchor}"' if anchor else ""
    return f"<h2{name}>{escape(title)}</h2>{content}" if content else ""


def folded(summary: str, content: str, *, opened: bool = False) -> str:
    """Return content that shows when its summary (HTML) is chosen."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{content}</details>"


def quiet(text: str) -> str:
    """Return a paragraph (HTML) of small print."""
    return f'<p class="quiet">{text}</p>'


def name_entry(entry: Entry) -> str:
    """Return the entry's label with a dot in its method's colour."""
    method = entry.result.method if entry.result.method in METHOD_STYLES else "other"
    return f'<span class="key" style="background:var(--{method})"></span><strong>{escape(entry.label)}</strong>'


def passed_or_failed(passed: bool) -> str:
    """Return one coloured word."""
    return '<span class="pass">pass</span>' if passed else '<span class="fail">FAIL</span>'
