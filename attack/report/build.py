"""Results to a folder that anyone can open: a page, figures, and tables for other tools."""

import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from attack.evaluation.results import Result, check_output, read_result
from attack.evaluation.transfer_file import read_transfer
from attack.report.examples import read_examples, read_png
from attack.report.figures import Panel, figure_bytes, panel_figure
from attack.report.grouping import group_results, take_in
from attack.report.groups import Group
from attack.report.measurements import read_measurements
from attack.report.page import Extras, render_page
from attack.report.tables import NORMS, curves_csv, metrics_files, plot_csv
from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME
from stylize.wording import literal

GENERATOR = '<meta name="generator" content="stylized-pairing, attack report">'  # as the template has it
LARGEST_HEAD = 4096  # bytes of a page that hold it


def write_report(
    results: Sequence[Path],
    out: Path,
    *,
    shards: Sequence[Path] = (),
    transfer: Path | None = None,
    beside: Sequence[Path] = (),
    explanations: Path | None = None,
) -> Path:
    """Write `index.html` and, for other tools, figures, curves, plots and metrics into `out`; return the page's path.

    The same files give the same bytes.  Nothing is written unless everything could be made.

    Args:
        results: JSON files of `attack run`, made with one protocol.
        out: folder, made when missing; files of an earlier report in it are replaced.
        shards: shard folders that were attacked or trained on, to show stylized pairs from; they name style sets.
        transfer: file of `attack transfer`, whose attacks count in verdicts and robust accuracies.
        beside: files of `attack shape-bias` and `attack corruptions` on the same models.
        explanations: picture of `attack explain`.

    Raises:
        InputError: a file is missing or damaged, results cannot be compared, a folder was not used, or `out` holds
            files of such names that are no report's.
    """
    read = [read_result(path) for path in results]
    if transfer is not None:
        transferred = read_transfer(transfer)
        read = [take_in(transferred, result) for result in read]
    pairs = [(literal(folder.resolve().name), read_examples(_used(folder, read))) for folder in shards]
    measured = read_measurements(beside, read)
    extras = Extras(measured, read_png(explanations) if explanations else None, pairs)
    names = {file_sha256(folder / MANIFEST_NAME): literal(folder.resolve().name) for folder in shards}
    content = build_report(group_results(read, names), extras)
    check_output(out / "index.html", begins=b"<")
    _check_own(out, content)
    for name, payload in content.items():
        write_atomically(out / name, payload)
    return out / "index.html"


def build_report(groups: Sequence[Group], extras: Extras) -> dict[str, bytes]:
    """Return the report's files by name, `index.html` last (see `write_report`)."""
    content: dict[str, bytes] = {}
    for group in groups:
        content |= _figures(group, content)
    content["curves.csv"] = curves_csv(groups).encode()
    for norm in NORMS:
        content[f"plots/{norm}.csv"] = plot_csv(groups, norm).encode()
    content |= {f"metrics/{name}": payload for name, payload in metrics_files(groups).items()}
    content["index.html"] = render_page(groups, extras).encode()
    return content


def _check_own(out: Path, names: Iterable[str]) -> None:
    """Raise `InputError` where a file would be replaced that no report wrote: ours names its generator in its page."""
    page = out / "index.html"
    if page.is_file() and GENERATOR.encode() in page.read_bytes()[:LARGEST_HEAD]:
        return
    for name in names:
        if (out / name).exists():
            raise InputError(f"{out / name} is not of an earlier report, and would be replaced: give another --out.")


def _figures(group: Group, taken: Container[str]) -> dict[str, bytes]:
    """Return the curves of all compared models as files of names not yet taken; none where they share no image."""
    if not group.common:
        return {}
    panels = [Panel(group, group.ranked, norm) for norm in NORMS]
    figure = panel_figure(panels, f"The paper's attack: {group.title}, {len(group.common)} common images")
    name = re.sub(r"[^\w.-]+", "-", f"{group.arch}-{group.shards_name}").strip("-")
    while f"figures/{name}.png" in taken:  # other images of shards of that name
        name += "-"
    return {f"figures/{name}.{kind}": figure_bytes(figure, kind) for kind in ("png", "svg")}


def _used(folder: Path, results: Sequence[Result]) -> Path:
    """Return the folder if a result was made, or its model trained, from it."""
    manifest = folder / MANIFEST_NAME
    known = {str(digest) for result in results for digest in (result.shards_sha256, result.trained_on)}
    if manifest.is_file() and file_sha256(manifest) not in known:
        raise InputError(f"{folder} is not a shard folder of these results: give one that they were made from.")
    return folder
