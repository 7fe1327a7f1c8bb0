"""`stylize evaluate-decoder`: judge a decoder on held-out photos and styles, as a document and as a table."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from stylize.engine.styles import load_styles
from stylize.errors import InputError
from stylize.fitting.data import HOLD_OUT_FRACTION, decode_file, is_held_out
from stylize.fitting.judge import Judge, Scores, Summary, summarise, summarise_scores
from stylize.networks.adain import MIN_SIDE
from stylize.networks.pair import load_pair
from stylize.sources.listing import list_pictures
from stylize.sources.picture_files import PictureFile
from stylize.wording import counted

Report = Callable[[str, int, int], None]


def held_out_photos(content: Path, fraction: float, limit: int) -> list[PictureFile]:
    """Return at most `limit` photos that a training with this held-out fraction did not see, spread over their order.

    Raises `InputError` where there are none.
    """
    files = [file for file in list_pictures(content) if is_held_out(file.name, fraction)]
    if not files or limit < 1:
        raise InputError(f"{content} has no held-out photos: give more, or --held-out-fraction 1 for all of them.")
    count = min(limit, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def evaluate_decoder(
    content: Path,
    style: Sequence[str],
    decoder: Path | None = None,
    held_out_fraction: float = HOLD_OUT_FRACTION,
    photos: int = 50,
    size: int = 224,
    lower_bound: int = 0,
    report: Report = lambda task, done, total: None,
    encoder: str | None = None,
) -> dict[str, Any]:
    """Judge a decoder (the shipped one if None) and its encoder on held-out photos × styles at size × size pixels.

    With `lower_bound` the pixels of so many photos per style are optimised for the same objective, for comparison.
    `report` receives the task, its finished styles and their number.
    Returns a document for JSON: per style and overall a `Summary` of every one of `Scores`, the reconstruction's PSNR,
    and what it was measured with. Raises `InputError` for pictures, styles or decoders that cannot be used.
    """
    if size < MIN_SIDE:
        raise InputError(f"--size is {size}: give at least {MIN_SIDE} pixels.")
    pair = load_pair(encoder, decoder)
    files = held_out_photos(content, held_out_fraction, photos)
    styles = load_styles(style, pair.decoder_sha256)
    if len({one.name for one in styles}) < len(styles):
        raise InputError("Two styles have the same name, by which results are stored: rename a file.")
    judge = Judge(pair.encoder.network, pair.decoder, [decode_file(file) for file in files], size)
    scores = {}
    for number, one in enumerate(styles):
        report("Judging", number, len(styles))
        scores[one.name] = judge.judge_style(one)
    bounds = {}
    for number, one in enumerate(styles if lower_bound else []):
        report("Optimising pixels", number, len(styles))
        bounds[one.name] = judge.lower_bound(one, lower_bound)
    return {
        "decoder_sha256": pair.decoder_sha256,
        "encoder_sha256": pair.encoder.sha256,
        "size": size,
        "photos": [file.name for file in files],
        "dtype": str(judge.dtype).removeprefix("torch."),
        "device": f"{judge.device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "reconstruction_psnr": asdict(summarise(judge.reconstruction_psnr())),
        **_summaries("styles", "overall", scores),
        **(_summaries("lower_bound_styles", "lower_bound", bounds) if bounds else {}),
    }


def _summaries(per_style: str, overall: str, scores: dict[str, list[Scores]]) -> dict[str, Any]:
    everything = [score for of_style in scores.values() for score in of_style]
    return {per_style: {name: _plain(of_style) for name, of_style in scores.items()}, overall: _plain(everything)}


def _plain(scores: Sequence[Scores]) -> dict[str, Any]:
    return {name: asdict(summary) for name, summary in summarise_scores(scores).items()}


def evaluation_table(document: dict[str, Any]) -> Table:
    """Lay out a document of `evaluate_decoder`: median (mean ± standard deviation) per style and overall."""
    names = list(Scores.__dataclass_fields__)
    psnr = Summary(**document["reconstruction_psnr"])
    title = f"{counted(len(document['photos']), 'photo')} at {document['size']} px, reconstruction {psnr.mean:.1f} dB"
    table = Table("style", *(name.replace("_", " ") for name in names), title=title)
    for rows, label in (("styles", "overall"), ("lower_bound_styles", "lower_bound")):
        for style, summaries in document.get(rows, {}).items():
            table.add_row(style, *(_cell(summaries[name]) for name in names))
        if label in document:
            table.add_row(f"{label.replace('_', ' ')}, all", *(_cell(document[label][name]) for name in names))
            worst = [max(s[name]["median"] for s in document[rows].values()) for name in names]
            table.add_row("worst style's median", *(f"{value:.3f}" for value in worst), end_section=True)
    return table


def _cell(summary: dict[str, float]) -> str:
    return f"{summary['median']:.3f} ({summary['mean']:.3f} ± {summary['deviation']:.3f})"
