"""`stylize fit-decoder`, `evaluate-decoder` and `fit-styles`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from stylize.cli.weights import ENCODER_HELP
from stylize.console import InputError, console
from stylize.files import write_atomically
from stylize.fitting.data import HOLD_OUT_FRACTION, open_pool
from stylize.fitting.decoder import fit_decoder
from stylize.fitting.evaluate import evaluate_decoder, evaluation_table
from stylize.fitting.settings import PRESETS, REFINE, FitSettings, Phase
from stylize.fitting.styles import FitResult, fit_styles
from stylize.networks.styles import load_styles
from stylize.networks.weights import load_encoder, load_pair

LINE_STEPS = 25
STYLE_HELP = "Picture, folder, zip or built-in style; repeat for more."
DECODER_HELP = "A decoder from fit-decoder; else the shipped one."


class FitProgress:
    """Prints the mean losses, the pace and the time left in the phase, every 25 steps."""

    def __init__(self) -> None:
        self.phase: Phase | None = None
        self.first_step = 0
        self.started = 0.0
        self.losses: list[dict[str, float]] = []

    def __call__(self, phase: Phase, step: int, losses: dict[str, float]) -> None:
        """Receive a step's losses."""
        if phase != self.phase:
            self.phase, self.first_step, self.started = phase, step, time.monotonic()
            self.losses.clear()
        self.losses.append(losses)
        if step % LINE_STEPS == 0 or step == phase.steps:
            self._print(phase, step)
            self.losses.clear()

    def _print(self, phase: Phase, step: int) -> None:
        pace = (time.monotonic() - self.started) / max(step - self.first_step, 1)
        means = {name: sum(losses[name] for losses in self.losses) / len(self.losses) for name in self.losses[0]}
        text = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        left = pace * (phase.steps - step) / 60
        name = f"{phase.loss} at {phase.side} px"
        console.print(f"{name} {step}/{phase.steps}: {text}, {pace:.2f} s/step, {left:.0f} min left")


def fit_decoder_command(
    content: Annotated[Path, typer.Option(help="Folder or zip of photos.")],
    style: Annotated[list[str], typer.Option(help=STYLE_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    hold_out: Annotated[list[str], typer.Option(help="Name of a style kept for evaluation.")] = [],  # noqa: B006
    hold_out_fraction: Annotated[
        float, typer.Option(help="Fraction of photos kept for evaluation.")
    ] = HOLD_OUT_FRACTION,
    preset: Annotated[
        str, typer.Option(help=f"The recipe: {', '.join(PRESETS)}; {REFINE} goes on from --start.")
    ] = "shipped",
    start: Annotated[
        Path | None, typer.Option(help="A decoder to go on from; `stylize weights list` names the shipped one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the crops.")] = FitSettings.seed,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
) -> None:
    """Train a decoder for an encoder; run the same command again to go on after an interruption."""
    pool = open_pool(content, style, hold_out, hold_out_fraction)
    if preset not in PRESETS:
        raise InputError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    if preset == REFINE and start is None:
        raise InputError(f"--preset {REFINE} goes on from a decoder: give its file with --start.")
    settings = replace(PRESETS[preset], seed=seed)
    fit_decoder(pool, output, load_encoder(encoder), settings, FitProgress(), start)
    console.print(f"Wrote {output}")


def fit_styles_command(
    style: Annotated[list[str], typer.Option(help=STYLE_HELP)],
    out: Annotated[Path, typer.Option(help="Folder to write to; give it as --style then.")] = Path("data/styles"),
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
    decoder: Annotated[Path | None, typer.Option(help=DECODER_HELP)] = None,
) -> None:
    """Adapt styles to the decoder, some seconds each, for stronger stylization; finished ones are not made again."""
    if out.resolve() in {Path(name).resolve() for name in style}:
        raise InputError(f"--out {out} is a --style too: give a folder apart from the pictures.")
    styles = load_styles(style)
    results = fit_styles(load_pair(encoder, decoder), styles, out)
    for result in track(results, "Fitting styles", total=len(styles), console=console, transient=True):
        console.print(_fit_line(result), highlight=False)


def _fit_line(result: FitResult) -> str:
    if result.before is None or result.after is None:
        return f"{result.path}: there already"
    pairs = zip(("content", "style"), result.before, result.after, strict=True)
    changes = ", ".join(f"{name} {before:.3f} → {after:.3f}" for name, before, after in pairs)
    return f"{result.path}: losses on drawn pictures: {changes}"


def evaluate_decoder_command(
    content: Annotated[Path, typer.Option(help="Folder or zip of photos.")],
    style: Annotated[list[str], typer.Option(help="Picture, folder, zip, built-in or fitted style; repeat for more.")],
    decoder: Annotated[Path | None, typer.Option(help=DECODER_HELP)] = None,
    held_out_fraction: Annotated[
        float, typer.Option(help="Fraction of photos, by hash, that training held out; 1 for all.")
    ] = HOLD_OUT_FRACTION,
    photos: Annotated[int, typer.Option(help="At most so many photos.")] = 50,
    size: Annotated[int, typer.Option(help="Side of the photos, in pixels.")] = 224,
    lower_bound: Annotated[int, typer.Option(help="Photos per style whose pixels are optimised; minutes each.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
) -> None:
    """Measure a decoder on photos and styles that its training did not see; 0 is perfect, 1 is the unstylized photo."""
    with console.status("Loading") as status:
        document = evaluate_decoder(
            content, style, decoder, held_out_fraction, photos, size, lower_bound,
            lambda task, done, total: status.update(f"{task}: {done}/{total} styles"), encoder,
        )  # fmt: skip
    console.print(evaluation_table(document))
    if output:
        text = json.dumps(document, indent=2, sort_keys=True)
        write_atomically(output, f"{text}\n".encode())
        console.print(f"Wrote {output}")
