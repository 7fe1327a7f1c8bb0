"""Progress of long work: a live line in a terminal, now and then a plain line elsewhere."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from stylize.runs.job import Report

PLAIN_LINE_SECONDS = 30.0
PACE_SECONDS = 30.0  # a pace is that of the last so many: shards of an earlier run are counted at once


@dataclass(frozen=True)
class Effort:
    """What images cost: FLOPs for each of the first `stylized`, none for the others, and the machine's FLOP/s or 0."""

    flops_per_image: int
    stylized: int
    machine_rate: float = 0.0

    def flops(self, images: int) -> int:
        """Return the FLOPs of the first images."""
        return min(images, self.stylized) * self.flops_per_image


class _Pace:
    """Times at which numbers of images were done, of the last seconds and at least two of them."""

    def __init__(self, start: float) -> None:
        self.samples = deque([(start, 0)])

    def add(self, now: float, done: int) -> None:
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[1][0] >= PACE_SECONDS:
            self.samples.popleft()

    def describe(self, total: int, effort: Effort | None) -> str:
        """Return images/s, FLOP/s with their share of the machine's rate, and the time left."""
        (first, before), (last, done) = self.samples[0], self.samples[-1]
        seconds = max(last - first, 1e-9)
        pace = (done - before) / seconds
        text = f"{pace:.1f} images/s"
        if effort and (rate := (effort.flops(done) - effort.flops(before)) / seconds):
            text += f", {rate / 1e9:.0f} GFLOP/s"
            text += f" ({rate / effort.machine_rate:.0%} of the machine's rate)" if effort.machine_rate else ""
        return f"{text}, {(total - done) / pace / 60:.1f} min left" if pace else text


@contextmanager
def images_progress(console: Console, title: str, total: int, effort: Effort | None = None) -> Iterator[Report]:
    """Show images done, images/s, achieved FLOP/s where the effort is known, and time left.

    Yields the function that receives numbers of finished images, from one thread at a time.  Nothing is left of the
    line where the work fails or there was none.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, pace="")
        pace = _Pace(console.get_time())
        spoken = time.monotonic()
        done = 0

        def report(images: int) -> None:
            nonlocal done, spoken
            done += images
            pace.add(console.get_time(), done)
            text = pace.describe(total, effort)
            progress.update(task, completed=done, pace=text)
            if not console.is_terminal and time.monotonic() - spoken > PLAIN_LINE_SECONDS:
                spoken = time.monotonic()
                console.print(f"{title}: {done}/{total}, {text}")

        progress.live.transient = True
        yield report
        progress.live.transient = done == 0
