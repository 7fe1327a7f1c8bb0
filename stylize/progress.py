"""The progress of long work: a line a task with its pace and the time left; plain lines where there is no terminal."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_LINE_SECONDS = 30.0  # between the lines of a log
PACE_SECONDS = 30.0  # a pace is that of the last so many: shards of an earlier run are counted at once
BYTES = "bytes"
Show = Callable[[str, int, int], None]
Report = Callable[[int], None]


@dataclass(frozen=True)
class Effort:
    """What images cost: FLOPs for each of the first `stylized`, none for the others, and the machine's FLOP/s or 0."""

    flops_per_image: int
    stylized: int
    machine_rate: float = 0.0

    def describe(self, before: int, done: int, seconds: float) -> str:
        """Return the FLOP/s of the images from `before` to `done`, and their share of the machine's rate."""
        rate = (min(done, self.stylized) - min(before, self.stylized)) * self.flops_per_image / seconds
        if not rate:
            return ""
        share = min(1.0, rate / self.machine_rate) if self.machine_rate else 0  # fast kernels count more than they do
        return f", {rate / 1e9:.0f} GFLOP/s" + (f" ({share:.0%} of the machine's rate)" if share else "")


class _Pace:
    """When how much of a task was done: in the last seconds, and at least two times."""

    def __init__(self, unit: str, effort: Effort | None, now: float, done: int) -> None:
        self.unit, self.effort = unit, effort
        self.samples = deque([(now, done)])
        self.spoken = time.monotonic()
        self.state = self.said = ""  # now, and when a log got its last line

    def add(self, now: float, done: int) -> None:
        self.samples.append((now, done))
        while len(self.samples) > 2 and now - self.samples[1][0] >= PACE_SECONDS:
            self.samples.popleft()

    def describe(self, total: int) -> str:
        """Return how much is done, the pace and the time left."""
        (first, before), (last, done) = self.samples[0], self.samples[-1]
        seconds = max(last - first, 1e-9)
        pace = (done - before) / seconds
        if self.unit == BYTES:
            amount, speed = f"{done / 1e6:.1f}/{total / 1e6:.1f} MB", f", {pace / 1e6:.1f} MB/s"
        else:
            amount, speed = f"{done}/{total}", f", {pace:.1f} {self.unit}/s" if self.unit else ""
        effort = self.effort.describe(before, done, seconds) if self.effort else ""
        return f"{amount}{speed}{effort}" + (f", {(total - done) / pace / 60:.1f} min left" if pace else "")

    def is_due(self) -> bool:
        """Return whether a log should get its next line."""
        if time.monotonic() - self.spoken <= PLAIN_LINE_SECONDS:
            return False
        self.spoken, self.said = time.monotonic(), self.state
        return True


@contextmanager
def shown_progress(
    console: Console, unit: str = "images", effort: Effort | None = None, *, keep: bool = False
) -> Iterator[Show]:
    """Yield a function of (task, done, total) that shows how far each task is; it is called by one thread at a time.

    What follows a colon in a task's name changes within its line. The first call for a task says what was done before.
    The lines are removed in the end, unless `keep` and something was done without an error.
    """
    columns = BarColumn(), TextColumn("{task.description}", markup=False)
    paces: dict[str, _Pace] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        lines = {}

        def show(task: str, done: int, total: int) -> None:
            kind, done, now = task.partition(":")[0], min(done, total), console.get_time()
            if kind not in paces:
                paces[kind] = _Pace(unit, effort, now, done)
                lines[kind] = display.add_task(task, total=total, completed=done)
                return
            paces[kind].add(now, done)
            paces[kind].state = f"{task}: {paces[kind].describe(total)}"
            display.update(lines[kind], description=paces[kind].state, completed=done, total=total)
            if not console.is_terminal and paces[kind].is_due():
                console.print(paces[kind].state)

        yield show
        kept = [pace for pace in paces.values() if keep and pace.samples[-1][1]]
        display.live.transient = not kept
    for pace in kept:
        if not console.is_terminal and pace.state != pace.said:
            console.print(pace.state)


@contextmanager
def counted_progress(
    console: Console, task: str, total: int, unit: str = "images", effort: Effort | None = None
) -> Iterator[Report]:
    """Show one task and yield a function that receives how much more of it is done, from one thread at a time."""
    done = 0
    with shown_progress(console, unit, effort, keep=True) as show:

        def report(more: int) -> None:
            nonlocal done
            done += more
            show(task, done, total)

        report(0)
        yield report
