"""Progress of long work: a live line in a terminal, now and then a plain line elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stylize.job import Report

PLAIN_LINE_SECONDS = 30.0
PACE_SECONDS = 30.0  # a pace is that of the last so many: shards of an earlier run are counted at once


@contextmanager
def images_progress(
    console: Console, title: str, total: int, flops_per_image: int = 0, machine_rate: float = 0.0
) -> Iterator[Report]:
    """Show images done, images/s, their share of the machine's rate in FLOP/s, if that is known, and time left.

    Yields the function that receives numbers of finished images.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    description = TextColumn("{task.description}")
    with Progress(description, *columns, console=console, speed_estimate_period=PACE_SECONDS) as progress:
        progress.add_task(title, total=total, rate="")
        (task,) = progress.tasks
        spoken = time.monotonic()

        def report(images: int) -> None:
            nonlocal spoken
            progress.update(task.id, advance=images)
            pace = task.speed or 0.0
            rate = f"{pace:.1f} images/s"
            if machine_rate:
                rate += f", {pace * flops_per_image / machine_rate:.0%} of the machine's rate"
            progress.update(task.id, rate=rate)
            if pace and not console.is_terminal and time.monotonic() - spoken > PLAIN_LINE_SECONDS:
                spoken = time.monotonic()
                minutes = (total - task.completed) / pace / 60
                console.print(f"{title}: {task.completed:.0f}/{total}, {rate}, {minutes:.1f} min left")

        yield report
