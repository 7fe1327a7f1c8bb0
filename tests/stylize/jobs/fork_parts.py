"""A program for `test_parts.py`: fork processes that make the parts of a job at once, as a job array does.

Usage: fork_parts.py FOLDER; prints one JSON object.
"""

import json
import os
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import stylize.jobs.spec
import stylize.networks.styles
from stylize import ShardOptions, make_shards, open_job
from stylize.cli.main import main
from stylize.jobs.job import Job
from stylize.jobs.make_shard import make_shard
from stylize.jobs.output import Receipt
from stylize.jobs.spec import ShardPlan
from stylize.sources.arrays import ShapesSource
from tests.stylize.jobs.contents import contents
from tests.stylize.jobs.fork_runs import OPTIONS, SAMPLES_PER_SHARD, STYLE, finish, wait_for

PARTS = 4


def start(log: Path, *arguments: object) -> int:
    """Run the command line in a forked process, what it says in a file, and return the process's id."""
    if process := os.fork():
        return process
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(stream, number)
    sys.argv = ["stylize", *map(str, arguments)]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start_part(out: Path, number: int) -> int:
    options = [text for name, value in OPTIONS.items() for text in (f"--{name}", value)]
    part = f"{number}/{PARTS}"
    return start(out.parent / "log", "shards", "--style", STYLE, *options, "--out", out, "--only", part)


def record_made_shards(record: Path) -> None:
    """Let every process add the names of the shards that it makes to a file."""

    def make(job: Job, plan: ShardPlan, *arguments: Any) -> Receipt:
        with open(record, "a") as file:
            file.write(f"{plan.name}\n")
        return make_shard(job, plan, *arguments)

    patch("stylize.jobs.run.make_shard", make).start()


def run_all(folder: Path) -> dict[str, object]:
    torch.set_num_threads(1)  # a pool of threads would not outlive the fork
    stylize.jobs.spec.SAMPLES_PER_SHARD = SAMPLES_PER_SHARD
    stylize.networks.styles.STYLE_SIDE = 64
    read = cache(ShapesSource().read)
    ShapesSource.read = lambda _self, split, index: read(split, index)  # type: ignore[method-assign, assignment]
    make_shards(open_job(ShardOptions(style=(STYLE,), **OPTIONS)), folder / "whole" / "out")  # type: ignore[arg-type]
    out = folder / "parts" / "out"
    out.parent.mkdir()
    killed = start_part(out, 2)
    wait_for(out.parent, ".staging/*/receipts/*.json")
    os.kill(killed, signal.SIGKILL)
    report: dict[str, object] = {"killed": finish(killed)}
    report["too_early"] = finish(start(out.parent / "early", "publish", out))
    report["early"] = (out.parent / "early").read_text()
    finished = {path.stem for path in out.parent.glob(".staging/*/receipts/*.json")}
    record_made_shards(folder / "made")
    # Every part twice: a scheduler may start a task again that still runs.
    report["parts"] = [finish(one) for one in [start_part(out, 1 + number % PARTS) for number in range(2 * PARTS)]]
    report["said"] = (out.parent / "log").read_text()
    report["publishers"] = [finish(one) for one in [start(out.parent / "end", "publish", out) for _ in range(2)]]
    report["end"] = (out.parent / "end").read_text()
    report["again"] = [finish(start_part(out, 1)), finish(start(out.parent / "end", "publish", out))]
    report["made"] = Counter([*finished, *(folder / "made").read_text().split()])
    report["equal"] = contents(out) == contents(folder / "whole" / "out")
    report["remains"] = sorted(path.name for path in out.parent.rglob("*") if path.parent != out)
    return report


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_all(Path(sys.argv[1]))))
