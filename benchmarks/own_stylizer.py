"""What `stylize shards` adds to a stylizer of one's own: its time beside a bare loop of the same function, in turns.

    python -m benchmarks.own_stylizer [--images 2000] [--turns 3]

The loop decodes each JPEG, crops it, calls the function on as many as it takes, and writes the copies as JPEGs.
`stylize shards` also checks the pictures, stores the originals, hashes, and writes tars with their index. Both are
processes of their own; the time of 100 images is taken off, which is mostly Python's start and imports.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.stylize import draw_data

LOOP = """
import sys
from pathlib import Path
import numpy as np, simplejpeg
from examples.fourier import AmplitudeMix
from stylize.sources.patterns import draw_pattern
folder, out, mix = Path(sys.argv[1]), Path(sys.argv[2]), AmplitudeMix()
style = np.asarray(draw_pattern("swirls"))
paths = sorted(folder.rglob("*.jpg"))
for start in range(0, len(paths), mix.batch_size):
    part = paths[start : start + mix.batch_size]
    images = np.stack([simplejpeg.decode_jpeg(path.read_bytes())[:224, :224] for path in part])
    for path, copy in zip(part, mix(images, [0] * len(part), [style], [0.5] * len(part)), strict=True):
        (out / f"{path.parent.name}-{path.name}").write_bytes(simplejpeg.encode_jpeg(copy, 95, colorsubsampling="444"))
"""
COMMAND = "from stylize.cli.main import main; main()"
OWN = ["--stylizer", "examples.fourier:AmplitudeMix", "--alpha", "0.5", "--style", "swirls"]
SIDE, FEW = 224, 100


def seconds(code: str, *arguments: object) -> float:
    """Return the wall time of code in a process of its own."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, stderr=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - started


def run_both(data: Path) -> tuple[float, float]:
    """Return the seconds of `stylize shards` and of the loop."""
    with tempfile.TemporaryDirectory() as folder:
        shards = seconds(COMMAND, "shards", "--data", data, "--size", SIDE, "--out", f"{folder}/shards", *OWN)
        return shards, seconds(LOOP, data, folder)


def main(
    images: Annotated[int, typer.Option(help="Pictures of 224 px.")] = 2000,
    turns: Annotated[int, typer.Option(help="The median of these counts.")] = 3,
) -> None:
    """Measure and print the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = (draw_data(Path(folder, str(count)), SIDE, count) for count in (FEW, images))
        pairs = [(run_both(few), run_both(many)) for _ in range(turns)]
    ratios = [(many[0] - few[0]) / (many[1] - few[1]) for few, many in pairs]
    print(f"stylize shards / bare loop: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    typer.run(main)
