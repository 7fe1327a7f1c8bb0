"""How much memory `stylize shards` takes, for few and for many images: it must not depend on their number.

    python -m benchmarks.memory [--count 1000 --count 20000] [--side 32] [-o RESULT.json]

Every run is a process of its own; its peak is what the system reports when it ends.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

# In processes of their own: a process starts with the peak of the one that starts it.
DRAW = """
import sys
from pathlib import Path
from benchmarks.stylize import draw_data
draw_data(Path(sys.argv[1]) / "pictures", int(sys.argv[2]), int(sys.argv[3]))
"""
COMMAND = "from stylize.cli.main import main; main()"


def measure(code: str, *arguments: object) -> tuple[float, float]:
    """Run code in a process of its own; return its seconds and its peak memory in MiB."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)]) as process:  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"A step ended with status {process.returncode}.")
    return time.perf_counter() - started, usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def peak(side: int, images: int) -> float:
    """Return the peak resident memory, in MiB, of stylizing so many images."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        measure(DRAW, folder, side, images)
        options = ["--data", f"{folder}/pictures", "--size", side, "--out", f"{folder}/shards"]
        return measure(COMMAND, "shards", *options)[1]


def main(
    count: Annotated[list[int], typer.Option(help="Numbers of images.")] = [1000, 20_000],  # noqa: B006
    side: Annotated[int, typer.Option(help="Side of the pictures, in pixels.")] = 32,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write.")] = None,
) -> None:
    """Measure and print the peaks."""
    peaks = {images: peak(side, images) for images in count}
    for images, mebibytes in peaks.items():
        print(f"{images} images: {mebibytes:.0f} MiB, {mebibytes / peaks[count[0]]:.3f} of the first")
    if output:
        output.write_text(json.dumps({"side": side, "peak_mebibytes": peaks}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
