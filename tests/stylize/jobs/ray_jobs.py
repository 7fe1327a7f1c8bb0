"""Jobs for `test_ray.py`, opened by Ray's workers, with sources that fail on demand; and a driver to kill.

Usage: ray_jobs.py make OUT FAULTS; makes the shards of the slow job on the cluster at RAY_ADDRESS.
"""

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from stylize.console import command_app, run_command_line
from stylize.jobs.job import Job, open_job
from stylize.jobs.ray import make_shards_on_ray, ray_pool
from stylize.jobs.spec import ShardOptions
from stylize.sources.arrays import ShapesSource

OPTIONS = ShardOptions(style=("dots",), data="shapes", size=16, limit=24, dtype="float32")
SAMPLES_PER_SHARD = 8  # so 3 shards a split


def open_small(faults: Path | None = None, fault: str = "") -> Job:
    """Open the job; `fault` is what its source does, with files in the folder `faults`."""
    job = open_job(OPTIONS)
    spec = replace(job.spec, samples_per_shard=SAMPLES_PER_SHARD)
    if fault == "differ":
        spec = replace(spec, device=f"cpu {os.getpid()}")
    if faults is not None:
        (faults / f"opened-{os.getpid()}").touch()
    return Job(spec, FaultySource(faults, fault) if faults else job.source, job.stylizer)


class FaultySource(ShapesSource):
    def __init__(self, faults: Path, fault: str) -> None:
        super().__init__()
        self.faults, self.fault = faults, fault

    def read(self, split: str, index: int) -> bytes:
        if self.fault == "killed" and self._once():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "failed once" and self._once():
            raise ZeroDivisionError("a planted fault")
        if self.fault == "failed":
            raise ZeroDivisionError("a planted fault")
        if self.fault == "always killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault in ("slow", "differ"):
            self._wait_for_both()
            time.sleep(0.05)
        return super().read(split, index)

    def _once(self) -> bool:
        try:
            (self.faults / self.fault).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _wait_for_both(self) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.faults.glob("opened-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)


def main(out: Path, faults: Path) -> None:
    with ray_pool(partial(open_small, faults, "slow")) as pool:
        make_shards_on_ray(pool, ShapesSource(), out)


if __name__ == "__main__":
    app = command_app("")
    app.command("make")(main)
    run_command_line(app)
