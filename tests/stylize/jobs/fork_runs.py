"""A program for `test_kills.py`: fork runs of `stylize shards`, stop each at a random moment, and run it again.

It loads everything once and forks, because starting Python for every run would take most of the time.
Usage: fork_runs.py FOLDER SEED SIGNAL …; prints one JSON object a signal.
"""

import json
import os
import random
import signal
import sys
import time
from functools import cache
from pathlib import Path

import torch

import stylize.jobs.spec
import stylize.networks.styles
from stylize import ShardOptions, make_shards, open_job
from stylize.cli.main import main
from stylize.sources.arrays import ShapesSource
from tests.stylize.jobs.contents import contents

OPTIONS = {"data": "shapes", "size": 16, "limit": 60, "stylizer": "tests.stylize.jobs.own_stylizers:slow"}
STYLE = "dots"
SAMPLES_PER_SHARD = 10


def start(out: Path) -> int:
    """Run the command line in a forked process, what it says in a file, and return the process's id."""
    out.parent.mkdir(exist_ok=True)
    if process := os.fork():
        return process
    log = os.open(out.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    options = [text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))]
    sys.argv = ["stylize", "shards", "--style", STYLE, *options, "--out", str(out)]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(process: int) -> int:
    """Wait for a process and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def finished_shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells a rewritten shard apart, for the shards that have a receipt or are published."""
    staged = [path.parents[1] / "shards" / path.stem for path in folder.glob(".staging/*/receipts/*.json")]
    paths = [path for path in [*staged, *folder.glob("out/*.tar")] if path.exists()]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def wait_for(folder: Path, pattern: str) -> None:
    end = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        if time.monotonic() > end:
            raise TimeoutError((folder / "log").read_text())
        time.sleep(0.002)


def stop(out: Path, number: signal.Signals, part: float, duration: float) -> int:
    """Start a run, send it a signal after a part of its duration in seconds, and return its exit code."""
    process = start(out)
    # A run may be killed while it has made nothing; what stops it gently must find it at work.
    wait_for(out.parent, ".staging/*" if number == signal.SIGKILL else ".staging/*/receipts/*.json")
    time.sleep(part * duration if number == signal.SIGKILL else part * duration / 4)
    os.kill(process, number)
    return finish(process)


def stop_and_rerun(
    out: Path, number: signal.Signals, part: float, duration: float, whole: dict[str, bytes]
) -> dict[str, object]:
    code = stop(out, number, part, duration)
    report: dict[str, object] = {"signal": number.name, "code": code, "said": (out.parent / "log").read_text()}
    before = finished_shards(out.parent)
    visible = [*out.parent.glob(".staging/*/shards/*.tar"), *out.glob("*")]
    report["half_written"] = [path.name for path in visible if path.read_bytes() != whole.get(path.name)]
    report["left_over"] = [path.name for path in out.parent.rglob("*.part")]
    report["rerun"] = finish(start(out))
    after = finished_shards(out.parent)
    report["finished"] = len(before)
    report["made_again"] = [name for name, identity in before.items() if after.get(name) != identity]
    report["equal"] = contents(out) == whole
    report["remains"] = sorted(path.name for path in out.parent.rglob("*") if path.parent != out)
    return report


def run_all(folder: Path, seed: int, signals: list[signal.Signals]) -> None:
    torch.set_num_threads(1)  # a pool of threads would not outlive the fork
    stylize.jobs.spec.SAMPLES_PER_SHARD = SAMPLES_PER_SHARD
    stylize.networks.styles.STYLE_SIDE = 64
    read = cache(ShapesSource().read)
    ShapesSource.read = lambda _self, split, index: read(split, index)  # type: ignore[method-assign, assignment]
    options = ShardOptions(style=(STYLE,), **OPTIONS)  # type: ignore[arg-type]
    make_shards(open_job(options), folder / "warm" / "out")
    whole = contents(folder / "warm" / "out")
    process = start(folder / "timed" / "out")
    wait_for(folder / "timed", ".staging/*")
    started = time.monotonic()
    finish(process)
    duration = time.monotonic() - started
    moments = random.Random(seed)
    for count, number in enumerate(signals):
        report = stop_and_rerun(folder / str(count) / "out", number, moments.random(), duration, whole)
        sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), int(sys.argv[2]), [signal.Signals[name] for name in sys.argv[3:]])
