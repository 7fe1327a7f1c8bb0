"""How fast `stylize shards` is here: end to end, the networks alone beside their rivals, and the published loop.

    python -m benchmarks.stylize [--data FOLDER_OR_ZIP] [--side 224 --side 32] [--backend torch] [--dtype auto]
                                [--seconds 20] [--no-rivals] [-o RESULT.json]

Everything is measured in turns of one run, five times; ratios are those within a turn, and medians are printed, because
other guests of a machine slow it at times. Run it while nothing else does. Without --data, pictures of the embedded
data set are drawn once and stored as JPEG files of the side in question. The rivals (`benchmarks.rivals`) take minutes
to compile; what cannot run here is named and left out.
"""

import io
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from rich.table import Table
from torchvision.transforms.functional import resize

from benchmarks.rivals import rivals
from stylize.console import InputError, console
from stylize.jobs.job import open_job
from stylize.jobs.make_shard import start_workers
from stylize.jobs.run import make_shards
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import AdaINNetwork, stylization_flops
from stylize.networks.devices import best_dtype, find_device, matrix_rate
from stylize.networks.styles import Style, load_styles
from stylize.networks.stylizer import DTYPES, OPENVINO_DTYPES, Stylizer
from stylize.networks.weights import Pair, load_pair
from stylize.shards.decode import decode_picture
from stylize.sources import Source
from stylize.sources.opening import open_source
from stylize.sources.shapes import draw_shape

LOOP_STYLE_SIDE = 512  # of the published tools, the short one
LOOP_STYLE_SHAPE = (640, 480)  # of the style's file, as many paintings
TURNS = 5
END_TO_END_LENGTH = 4  # of the other measurements', at the machine's rate: a run's start and end are in it
Row = dict[str, float]


def rate(work: Callable[[], int], seconds: float) -> float:
    """Return units per second of `work`, which returns the units that it did; the first call is not counted."""
    work()
    units, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        units += work()
    return units / elapsed


def published_loop(source: Source, side: int, style: bytes, seconds: float) -> float:
    """Return images/s of one image at a time in float32, its style read and encoded again for each.

    That is what stylize-datasets does by default: the style's short side becomes 512 px, nothing is cropped.
    """
    pair = load_pair()
    network = AdaINNetwork(pair.encoder.network, pair.decoder)
    count = source.count("train")
    index = 0

    @torch.inference_mode()
    def stylize_one() -> int:
        nonlocal index
        content = ImageOps.fit(decode_picture(source.read("train", index % count)), (side, side))
        style_pixels = _tensor(resize(decode_picture(style), LOOP_STYLE_SIDE))
        output = network(_tensor(content), *network.style_statistics(style_pixels))
        _save(Image.fromarray(output[0].permute(1, 2, 0).mul(255).round().byte().numpy()))
        index += 1
        return 1

    return rate(stylize_one, seconds)


def _save(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].contiguous().float() / 255


def network_alone(stylizer: Stylizer, source: Source, side: int, pool: Executor) -> Callable[[], int]:
    """Return what stylizes decoded pictures in memory by the network alone, four batches in each of its streams."""
    count = min(source.count("train"), stylizer.batch_size(side, side))
    pictures = [ImageOps.fit(decode_picture(source.read("train", index)), (side, side)) for index in range(count)]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    on_device = pixels.to(stylizer.device, stylizer.dtype, memory_format=torch.channels_last) / 255

    @torch.inference_mode()
    def stylize_batch(_turn: int) -> int:
        stylizer.network(on_device, stylizer.means, stylizer.stds)
        if stylizer.device.type == "cuda":
            torch.cuda.synchronize()
        return count

    return lambda: sum(pool.map(stylize_batch, range(4 * stylizer.streams)))


def end_to_end_rate(data: Path, side: int | None, images: int, chosen: ShardOptions) -> float:
    """Return images/s of `stylize shards` after its start: read, decode, stylize, encode, tar on disk, flushed."""
    job = open_job(replace(chosen, data=str(data), size=side, limit=images, test_fraction=0.1))
    with tempfile.TemporaryDirectory(dir=".") as folder:
        started = time.perf_counter()
        manifest = make_shards(job, Path(folder) / "shards")
        return manifest.samples("train") / (time.perf_counter() - started)


def draw_data(folder: Path, side: int, count: int) -> Path:
    """Write pictures of the embedded data set as JPEG class folders and return the folder."""
    for index in range(count):
        scene = draw_shape(index, size=side, split="train")
        path = folder / str(scene.shape) / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.picture.save(path, quality=95)
    return folder


def our_networks(pair: Pair, styles: Sequence[Style], chosen: Stylizer) -> dict[str, Stylizer]:
    """Return the stylizers of every other backend and type that can run here; others are named."""
    best = str(best_dtype(chosen.device)).removeprefix("torch.")
    offered = {("torch", best), ("torch", "float32"), *(("openvino", dtype) for dtype in OPENVINO_DTYPES)}
    found = {}
    for backend, dtype in sorted(offered - {(chosen.backend, chosen.dtype_name)}):
        try:
            found[f"ours {backend} {dtype}"] = Stylizer(pair.encoder.network, pair.decoder, styles, dtype, backend)
        except InputError as error:
            console.print(f"Left out: {backend} {dtype} ({error})")
    if chosen.device.type != "cpu":
        found["ours compiled"] = Stylizer(pair.encoder.network, pair.decoder, styles, chosen.dtype_name)
        if reason := found["ours compiled"].compile():
            console.print(f"Not compiled: ours ({reason})")
    return found


def measure(data: Path | None, side: int, seconds: float, images: int, chosen: ShardOptions, with_rivals: bool) -> Row:
    """Measure one image side in turns; rates in images/s, the machine's in FLOP/s of its fastest type."""
    with tempfile.TemporaryDirectory() as folder:
        source_path = data or draw_data(Path(folder), side, images)
        source = open_source(str(source_path), test_fraction=0.1)
        style = load_styles(["swirls"])
        loop_style = _save(ImageOps.fit(style[0].picture, LOOP_STYLE_SHAPE))
        pair = load_pair()
        stylizer = Stylizer(pair.encoder.network, pair.decoder, style, chosen.dtype, chosen.backend)
        networks, others = {"network": stylizer}, {}
        if with_rivals:
            networks |= our_networks(pair, style, stylizer)
            others = rivals(pair, stylizer.means, stylizer.stds, side, stylizer.device)
        turns = []
        for _ in range(TURNS):
            turn = {"machine": matrix_rate(stylizer.device, best_dtype(stylizer.device), seconds / TURNS)}
            for name, network in networks.items():
                with start_workers(network.streams) as workers:
                    turn[name] = rate(network_alone(network, source, side, workers.network), seconds / TURNS)
            turn |= {name: rate(run, seconds / TURNS) for name, run in others.items()}
            turn["end_to_end"] = end_to_end_rate(source_path, side, images, chosen)
            turn["without_size"] = end_to_end_rate(source_path, None, images, chosen)
            turn["published_loop"] = published_loop(source, side, loop_style, seconds / TURNS)
            turns.append(turn | ratios(turn, side, [*list(networks)[1:], *others]))
        return {name: median(turn[name] for turn in turns) for name in turns[0]}


def ratios(turn: Row, side: int, others: Sequence[str]) -> Row:
    """Return the ratios within a turn; `others` are the networks to compare with."""
    return {
        **{f"network / {name}": turn["network"] / turn[name] for name in others},
        "network_share_of_machine": turn["network"] * stylization_flops(side, side) / turn["machine"],
        "end_to_end_share_of_network": turn["end_to_end"] / turn["network"],
        "without_size_share_of_end_to_end": turn["without_size"] / turn["end_to_end"],
        "times_published_loop": turn["end_to_end"] / turn["published_loop"],
    }


def main(
    side: Annotated[list[int], typer.Option(help="Sides of the pictures, in pixels.")] = [224, 32],  # noqa: B006
    data: Annotated[Path | None, typer.Option(help="Folder or zip of class folders.")] = None,
    backend: Annotated[str, typer.Option(help="As for `stylize shards`.")] = "auto",
    dtype: Annotated[str, typer.Option(help="As for `stylize shards`.")] = "auto",
    seconds: Annotated[float, typer.Option(help="How long every rate is measured, over all turns.")] = 20.0,
    with_rivals: Annotated[bool, typer.Option("--rivals/--no-rivals", help="Measure other networks beside.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure and print the rates and their ratios."""
    device = find_device()
    machine = {name: matrix_rate(device, dtype, 3.0) for name, dtype in DTYPES.items() if name != "float16"}
    best = max(machine.values())
    chosen, rows = ShardOptions(backend=backend, dtype=dtype), []
    for one in side:
        images = max(64, min(20_000, round(END_TO_END_LENGTH * best / stylization_flops(one, one) * seconds / TURNS)))
        rows.append({"side": one, "images": images} | measure(data, one, seconds, images, chosen, with_rivals))
    document = {
        "matrix_multiply_gflops": {name: value / 1e9 for name, value in machine.items()},
        "backend": backend,
        "dtype": dtype,
        "turns": TURNS,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "rates": rows,
    }
    table = Table("", *map(str, side), title=f"Matrix multiply, GFLOP/s: {document['matrix_multiply_gflops']}")
    for name in rows[0]:
        table.add_row(name.replace("_", " "), *(f"{row[name]:.3g}" for row in rows))
    console.print(table)
    if output:
        output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
