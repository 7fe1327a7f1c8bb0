"""How fast training reads shards, and what it costs beside arithmetic: ratios within turns of one run.

    python -m benchmarks.train SHARDS [--arch mobilenet_v3_small] [--batch-size 64] [--seconds 5] [-o RESULT.json]

One thread reads and decodes in this process, both images of each pair, shuffled; so do the loaders of other projects
(`pip install "stylized-pairing[bench]"`).  Training is compared with the same steps on one batch in memory; the
authors' way, which stylizes every image in the loop, is added up from its measured parts.
Run it while nothing else does.
"""

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice, repeat
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import simplejpeg
import torch
import typer
from PIL import ImageOps

from benchmarks.loaders import rival_loaders
from benchmarks.stylize import LOOP_STYLE_SHAPE, published_loop, rate
from stylize.console import console
from stylize.networks.styles import load_styles
from stylize.sources.opening import open_source
from train import TrainConfig, image_preset
from train.dataset import PairedShards
from train.distributed import World, loading_workers
from train.loading import Batch, EpochBatches, TrainingViews, training_loader
from train.loop import Trainer
from train.models import build_model

Row = dict[str, float]
Rivals = dict[str, Callable[[], int]]
MOST_PAIRS = 10_000  # in memory


def bare_decoding(samples: PairedShards) -> Callable[[], int]:
    """Return what decodes a pair by simplejpeg, its bytes in memory already."""
    turns = cycle([samples.index.read(index, [0, 1]) for index in range(min(len(samples), MOST_PAIRS))])
    return lambda: len([simplejpeg.decode_jpeg(payload) for payload in next(turns)])


def reading(samples: PairedShards, batches: EpochBatches) -> Callable[[], int]:
    """Return what reads, checks and decodes a batch of pairs as training does."""
    turns = cycle(batches)
    return lambda: 2 * len(samples.read_many(next(turns)[1], [[0, 1]] * batches.batch_size))


def our_loader(views: TrainingViews, batches: EpochBatches) -> Callable[[], int]:
    """Return what reads, checks, decodes and augments a batch of pairs as training does."""
    turns = cycle(batches)
    return lambda: 2 * len(views[next(turns)][0])


class Training:
    """Training steps of a network on batches of pairs."""

    def __init__(self, arch: str, samples: PairedShards, batch_size: int) -> None:
        config = TrainConfig(Path(), arch, "pairing", Path(), batch_size=batch_size, epochs=1000)
        classes = len(samples.class_names)
        self.trainer = Trainer(config, build_model(arch, classes), World(0, 1, torch.device("cpu")), 10**6, classes)
        self.views = TrainingViews(samples, np.arange(len(samples)), image_preset("auto", samples.size), 0, "copy")
        self.batches = EpochBatches(np.arange(len(samples)), batch_size, 0)
        workers = loading_workers(config, torch.device("cpu"), streamed=False)
        self.loader = training_loader(self.views, self.batches, workers, pin_memory=False)
        self.from_shards = self._epochs()
        self.constant: Iterator[Batch] = repeat(next(self.from_shards))

    def _epochs(self) -> Iterator[Batch]:
        for epoch in range(10**6):
            self.batches.select(epoch)
            yield from self.loader

    def rate(self, batches: Iterator[Batch], seconds: float) -> float:
        """Return images/s of originals over at least so many seconds, the first step not counted."""
        self._take(batches, 1)
        started, images = time.monotonic(), 0
        while (passed := time.monotonic() - started) < seconds:
            images += self._take(batches, 1)
        return images / passed

    def _take(self, batches: Iterator[Batch], steps: int) -> int:
        done: list[int] = []
        self.trainer.run_epoch(islice(batches, steps), lambda: False, done.append)
        return sum(done)


def measure(samples: PairedShards, rivals: Rivals, training: Training, seconds: float) -> Row:
    """Measure everything once, in turn; rates in images/s, of one core where only reading is measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    row = {
        "bare decoding": rate(bare_decoding(samples), seconds),
        "reading": rate(reading(samples, training.batches), seconds),
        "loader": rate(our_loader(training.views, training.batches), seconds),
        **{name: rate(decode, seconds) for name, decode in rivals.items()},
    }
    torch.set_num_threads(threads)
    row["training from memory"] = training.rate(training.constant, 2 * seconds)
    row["training from shards"] = training.rate(training.from_shards, 2 * seconds)
    return row


def ratios(row: Row, rivals: Rivals, stylized: float) -> Row:
    """Return the ratios within a turn; `stylized` is the published loop's rate, in images/s."""
    in_the_loop = 1 / (1 / row["training from memory"] + 1 / stylized)
    return {
        "reading / bare decoding": row["reading"] / row["bare decoding"],
        "loader / bare decoding": row["loader"] / row["bare decoding"],
        **{f"loader / {name}": row["loader"] / row[name] for name in rivals},
        "training from shards / from memory": row["training from shards"] / row["training from memory"],
        "training from shards / stylizing in the loop": row["training from shards"] / in_the_loop,
    }


def main(
    shards: Annotated[Path, typer.Argument(help="Folder of shards of JPEG pairs of one size.")],
    arch: Annotated[str, typer.Option(help="As for `train run`.")] = "mobilenet_v3_small",
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 64,
    seconds: Annotated[float, typer.Option(help="How long each part of a turn is measured.")] = 5.0,
    turns: Annotated[int, typer.Option(help="Medians are taken over them.")] = 3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure and print the rates and their ratios."""
    samples = PairedShards(shards, "train")
    training = Training(arch, samples, batch_size)
    style = io.BytesIO()
    ImageOps.fit(load_styles(["swirls"])[0].picture, LOOP_STYLE_SHAPE).save(style, "PNG")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rivals = rival_loaders(shards, samples, Path(folder))
        for _ in range(turns):
            row = measure(samples, rivals, training, seconds)
            side = training.views.preset.size
            row["stylizing in the loop"] = published_loop(open_source("shapes"), side, style.getvalue(), seconds)
            rows.append(row | ratios(row, rivals, row["stylizing in the loop"]))
    found = {name: median(row[name] for row in rows) for name in rows[0]}
    for name, value in found.items():
        console.print(f"{name}: {value:,.3g}")
    if output:
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "arch": arch, "turns": turns}
        output.write_text(json.dumps({**machine, "size": samples.size, "medians": found}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
