"""The command `stylize fit-decoder`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from stylize.fit import fit_decoder
from stylize.fit_data import FitSettings, open_pool
from stylize.weights import embedded_encoder

LINE_STEPS = 25


class FitProgress:
    """Prints the losses, the pace and the time left every 25 steps."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phase = ""
        self.first_step = 0
        self.started = 0.0

    def __call__(self, phase: str, step: int, total: int, losses: dict[str, float]) -> None:
        """Receive a step's losses."""
        if phase != self.phase:
            self.phase, self.first_step, self.started = phase, step, time.monotonic()
        if step % LINE_STEPS == 0 or step == total:
            pace = (time.monotonic() - self.started) / max(step - self.first_step, 1)
            text = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
            left = pace * (total - step) / 60
            self.console.print(f"{phase} {step}/{total}: {text}, {pace:.2f} s/step, {left:.0f} min left")


def fit_decoder_command(
    content: Annotated[Path, typer.Option(help="Folder or zip of photos.")],
    style: Annotated[list[str], typer.Option(help="Picture, folder, zip or built-in style; repeat for more.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The safetensors file to write.")],
    hold_out: Annotated[list[str], typer.Option(help="Name of a style kept for evaluation.")] = [],  # noqa: B006
    hold_out_fraction: Annotated[float, typer.Option(help="Fraction of photos kept for evaluation.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Steps of style training.")] = FitSettings.style_steps,
    side: Annotated[int, typer.Option(help="Side of the style training's crops, in pixels.")] = FitSettings.style_side,
    seed: Annotated[int, typer.Option(help="Chooses the crops.")] = FitSettings.seed,
) -> None:
    """Train a decoder for the embedded encoder; run the same command again to go on after an interruption."""
    console = Console()
    pool = open_pool(content, style, hold_out, hold_out_fraction)
    settings = FitSettings(style_steps=steps, style_side=side, seed=seed)
    fit_decoder(pool, output, embedded_encoder(), settings, FitProgress(console))
    console.print(f"Wrote {output}")
