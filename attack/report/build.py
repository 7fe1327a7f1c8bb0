"""Results to a folder that anyone can open: a page, figures, and tables for other tools."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attack.evaluation.results import Result, check_output, read_result
from attack.report.examples import read_examples
from attack.report.figures import figure_bytes, group_figure
from attack.report.page import render_page
from attack.report.summary import curves_csv, group_results, metrics_json
from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME
from stylize.wording import literal

GENERATOR = '<meta name="generator" content="stylized-pairing, attack report">'  # as the template has it
LARGEST_HEAD = 4096  # bytes of a page that hold it


def write_report(results: Sequence[Path], out: Path, *, shards: Sequence[Path] = ()) -> Path:
    """Write `index.html`, `figures/*.png|svg`, `curves.csv` and `metrics.json` into `out`; return the page's path.

    The same results and shards give the same bytes.  Nothing is written unless everything could be made.

    Args:
        results: JSON files of `attack run`, made with one protocol.
        out: folder, made when missing; files of an earlier report in it are replaced.
        shards: shard folders that were attacked, to show stylized pairs from.

    Raises:
        InputError: a file is missing or damaged, results cannot be compared, a folder was not attacked, or `out` holds
            files of such names that are no report's.
    """
    read = [read_result(path) for path in results]
    content = build_report(read, shards)
    check_output(out / "index.html")
    _check_own(out, content)
    for name, payload in content.items():
        write_atomically(out / name, payload)
    return out / "index.html"


def _check_own(out: Path, names: Iterable[str]) -> None:
    """Raise `InputError` where a file would be replaced that no report wrote: ours names its generator in its page."""
    page = out / "index.html"
    if page.is_file() and GENERATOR.encode() in page.read_bytes()[:LARGEST_HEAD]:
        return
    for name in names:
        if (out / name).exists():
            raise InputError(f"{out / name} is not of an earlier report, and would be replaced: give another --out.")


def build_report(results: Sequence[Result], shards: Sequence[Path] = ()) -> dict[str, bytes]:
    """Return the report's files by name, `index.html` last (see `write_report`)."""
    groups = group_results(results)
    examples = [(literal(folder.resolve().name), read_examples(_attacked(folder, results))) for folder in shards]
    content: dict[str, bytes] = {}
    for group in groups:
        figure = group_figure(group)
        name = re.sub(r"[^\w.-]+", "-", f"{group.arch}-{group.shards_name}").strip("-")
        for kind in ("png", "svg"):
            content[f"figures/{name}.{kind}"] = figure_bytes(figure, kind)
    content["curves.csv"] = curves_csv(groups).encode()
    content["metrics.json"] = metrics_json(groups).encode()
    content["index.html"] = render_page(groups, examples).encode()
    return content


def _attacked(folder: Path, results: Sequence[Result]) -> Path:
    """Return the folder if its test images, or its training pairs, are those of a result."""
    manifest = folder / MANIFEST_NAME
    known = {str(digest) for result in results for digest in result.shards_used}
    if manifest.is_file() and file_sha256(manifest) not in known:
        raise InputError(f"{folder} is not a shard folder of these results: give one that they were made from.")
    return folder
