"""Progress of long work: a live line in a terminal, now and then a plain line elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stylize.job import Report

PLAIN_LINE_SECONDS = 30.0


@contextmanager
def images_progress(console: Console, title: str, total: int, flops_per_image: int = 0) -> Iterator[Report]:
    """Show images done, images/s, achieved FLOP/s and time left; yields the function that receives finished images."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        task = progress.add_task(title, total=total, rate="")
        started = spoken = time.monotonic()
        done = 0

        def report(images: int) -> None:
            nonlocal done, spoken
            done += images
            now = time.monotonic()
            pace = done / max(now - started, 1e-9)
            rate = f"{pace:.1f} images/s"
            if flops_per_image:
                rate += f", {pace * flops_per_image / 1e9:.0f} GFLOP/s"
            progress.update(task, advance=images, rate=rate)
            if not console.is_terminal and now - spoken > PLAIN_LINE_SECONDS:
                spoken = now
                console.print(f"{title}: {done}/{total}, {rate}, {(total - done) / pace / 60:.1f} min left")

        yield report
