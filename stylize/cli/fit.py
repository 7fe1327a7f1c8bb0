"""`stylize fit-decoder`, `evaluate-decoder` and `fit-styles`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from stylize.console import InputError, Show, console, counted_progress, shown_progress
from stylize.files import write_atomically
from stylize.fitting import HOLD_OUT_FRACTION, PRESETS, REFINE, FitSettings, Phase
from stylize.interruption import imports_torch
from stylize.jobs.spec import STYLE_HELP, Encoder

LINE_STEPS = 25
PRESET_HELP = f"The recipe: {', '.join(PRESETS)}; {REFINE} goes on from --start."
START_HELP = "A decoder to go on from; `stylize weights list` names the shipped one."
HELD_OUT_HELP = "Fraction of photos, by hash, that training held out; 1 for all."
Style = Annotated[list[str], typer.Option(help=STYLE_HELP)]
Decoder = Annotated[Path | None, typer.Option(help="A decoder from fit-decoder; else the shipped one.")]
Photos = Annotated[Path, typer.Option(help="Folder or zip of photos.")]


def _loss_printer(show: Show) -> Callable[[Phase, int, dict[str, float]], None]:
    """Return a function of a step that shows its phase's progress, and prints the mean losses every 25 steps."""
    steps: list[dict[str, float]] = []

    def receive(phase: Phase, step: int, losses: dict[str, float]) -> None:
        name = f"{phase.loss} at {phase.side} px"
        show(name, step, phase.steps)
        steps.append(losses)
        if step % LINE_STEPS == 0 or step == phase.steps:
            means = {loss: sum(each[loss] for each in steps) / len(steps) for loss in losses}
            text = " ".join(f"{loss} {value:.4f}" for loss, value in means.items())
            console.print(f"{name} {step}/{phase.steps}: {text}")
            steps.clear()

    return receive


@imports_torch
def fit_decoder(
    content: Photos,
    style: Style,
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    hold_out: Annotated[list[str], typer.Option(help="Name of a style kept for evaluation.")] = [],  # noqa: B006
    hold_out_fraction: Annotated[
        float, typer.Option(help="Fraction of photos kept for evaluation.")
    ] = HOLD_OUT_FRACTION,
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "shipped",
    start: Annotated[Path | None, typer.Option(help=START_HELP)] = None,
    seed: Annotated[int, typer.Option(help="Chooses the crops.")] = FitSettings.seed,
    encoder: Encoder = None,
) -> None:
    """Train a decoder for an encoder; run the same command again to go on after an interruption."""
    from stylize.fitting import data, decoder
    from stylize.networks.weights import load_encoder

    pool = data.open_pool(content, style, hold_out, hold_out_fraction)
    if preset not in PRESETS:
        raise InputError(f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    if preset == REFINE and start is None:
        raise InputError(f"--preset {REFINE} goes on from a decoder: give its file with --start.")
    settings = replace(PRESETS[preset], seed=seed)
    with shown_progress(console, "steps") as show:
        decoder.fit_decoder(pool, output, load_encoder(encoder), settings, _loss_printer(show), start)
    console.print(f"Wrote {output}")


@imports_torch
def fit_styles(
    style: Style,
    out: Annotated[Path, typer.Option(help="Folder to write; give it to --style.")] = Path("data/styles"),
    encoder: Encoder = None,
    decoder: Decoder = None,
) -> None:
    """Adapt styles to the decoder, some seconds each, for stronger stylization; finished ones are not made again."""
    from stylize.fitting import styles as fitting
    from stylize.networks.styles import load_styles
    from stylize.networks.weights import load_pair

    if out.resolve() in {Path(name).resolve() for name in style}:
        raise InputError(f"--out {out} is a --style too: give a folder apart from the pictures.")
    styles = load_styles(style)
    results = fitting.fit_styles(load_pair(encoder, decoder), styles, out)
    with counted_progress(console, "Fitting styles", len(styles), "styles") as report:
        for result in results:
            line = "there already"
            if result.before is not None and result.after is not None:
                pairs = zip(("content", "style"), result.before, result.after, strict=True)
                changes = ", ".join(f"{name} {before:.3f} → {after:.3f}" for name, before, after in pairs)
                line = f"losses on drawn pictures: {changes}"
            console.print(f"{result.path}: {line}", highlight=False)
            report(1)


@imports_torch
def evaluate_decoder(
    content: Photos,
    style: Style,
    decoder: Decoder = None,
    held_out_fraction: Annotated[float, typer.Option(help=HELD_OUT_HELP)] = HOLD_OUT_FRACTION,
    photos: Annotated[int, typer.Option(help="Largest number of photos.")] = 50,
    size: Annotated[int, typer.Option(help="Side of the photos, in pixels.")] = 224,
    lower_bound: Annotated[int, typer.Option(help="Photos per style whose pixels are optimised; minutes each.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
    encoder: Encoder = None,
) -> None:
    """Measure a decoder on photos and styles that its training did not see; 0 is perfect, 1 is the unstylized photo."""
    from stylize.fitting import evaluate

    with shown_progress(console, "styles") as show:
        counts = photos, size, lower_bound
        document = evaluate.evaluate_decoder(content, style, decoder, held_out_fraction, *counts, show, encoder)
    console.print(evaluate.evaluation_table(document))
    if output:
        text = json.dumps(document, indent=2, sort_keys=True)
        write_atomically(output, f"{text}\n".encode())
        console.print(f"Wrote {output}")
