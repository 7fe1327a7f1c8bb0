"""How fast a step of `stylize fit-decoder` is here, and the drawing of its batches.

    python -m benchmarks.fitting [--side 96] [--pairings 2] [--seconds 20] [--against FOLDER]

Updates of the shipped decoder are timed with a batch of 8 that is in memory, drawing with the same settings in one
process. With --against, another checkout of this project takes turns with this one, each in a process of its own, and
the ratio within a turn is printed: other guests of a machine slow it at times.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

TURNS = 3
WARM_UP = 5  # steps: a GPU's are recorded after some
Row = dict[str, float]


def measure(side: int, pairings: int, seconds: float) -> Row:
    """Return updates/s on the best device, and batches/s that one process draws."""
    import torch

    from stylize.fitting import FitSettings, Phase
    from stylize.fitting.data import CropBatches, open_pool
    from stylize.fitting.decoder import DecoderFit
    from stylize.networks.weights import default_decoder_file, embedded_encoder
    from stylize.sources.shapes import draw_shape

    with tempfile.TemporaryDirectory() as folder:
        for index in range(8):
            draw_shape(index, size=side, split="train").picture.save(Path(folder) / f"{index}.png")
        settings = FitSettings((Phase("style", side, 1_000_000),), pairings=pairings, pattern_share=0.0)
        pool = open_pool(Path(folder), [folder], [], 0.0)
        batches = CropBatches(pool, settings, side)
        drawing = _rate(lambda step: batches[step], seconds / 4)
        fit = DecoderFit(settings, pool, embedded_encoder(), default_decoder_file())
        batch = batches[0]

        def step(_number: int) -> None:
            fit.train_step("style", *batch)
            if fit.device.type == "cuda":
                torch.cuda.synchronize()

        return {"updates": _rate(step, seconds) * pairings, "batches": drawing}


def _rate(work: Callable[[int], object], seconds: float) -> float:
    for number in range(WARM_UP):
        work(number)
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        work(done)
        done += 1
    return done / elapsed


def measured_in(checkout: Path, side: int, pairings: int, seconds: float) -> Row:
    """Return what `measure` finds with a checkout's `stylize`; -P, because the benchmark of that name stands beside."""
    call = [sys.executable, "-P", __file__, "--one-turn", "--side", str(side), "--pairings", str(pairings)]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    found = subprocess.run([*call, "--seconds", str(seconds)], env=environment, check=True, stdout=subprocess.PIPE)  # noqa: S603
    row: Row = json.loads(found.stdout)
    return row


def main(
    side: Annotated[int, typer.Option(help="Side of the crops, in pixels.")] = 96,
    pairings: Annotated[int, typer.Option(help="Updates a step.")] = 2,
    seconds: Annotated[float, typer.Option(help="How long updates are timed, in a turn.")] = 20.0,
    against: Annotated[Path | None, typer.Option(help="Another checkout of this project.")] = None,
    one_turn: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure and print the rates; with --against also those of another checkout, and the ratio."""
    if one_turn:
        print(json.dumps(measure(side, pairings, seconds)))
        return
    here = Path(__file__).parents[1]
    ours, ratios = [], []
    for _ in range(TURNS):
        ours.append(measured_in(here, side, pairings, seconds))
        if against:
            ratios.append(ours[-1]["updates"] / measured_in(against, side, pairings, seconds)["updates"])
    rates = {name: median(row[name] for row in ours) for name in ours[0]}
    print(f"{side} px: {rates['updates']:.3g} updates/s; one process draws {rates['batches']:.3g} batches/s")
    if ratios:
        print(f"{median(ratios):.2f} times as fast as {against} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    typer.run(main)
