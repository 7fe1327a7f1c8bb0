"""The command `stylize publish`, and `stylize shards --only`: a job in parts."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.summary import print_summary
from stylize.command_line import console, print_notice
from stylize.errors import InputError
from stylize.runs.job import Job
from stylize.runs.parts import make_part, parse_part, publish_parts
from stylize.runs.progress import images_progress
from stylize.wording import counted

ONLY_HELP = "Make the third of 16 parts, 3/16, say in a job array; `stylize publish` joins them."


def make_only(job: Job, out: Path, only: str, max_failures: int, retry_failed: bool) -> None:
    """Make a part of a job's shards and say so."""
    part = parse_part(only)
    if retry_failed:
        raise InputError("--retry-failed makes a finished folder anew: give it without --only.")
    with images_progress(console, "Stylizing", part.images(job.spec)) as report:
        shards = make_part(job, out, part, max_failures, report, print_notice)
    console.print(f"{out}: part {part} is finished, {counted(shards, 'shard')}; then: stylize publish {out}")


def publish_command(
    out: Annotated[Path, typer.Argument(help="The --out of the parts.")],
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
) -> None:
    """Publish a folder whose parts were made by `stylize shards --only`."""
    print_summary(out, publish_parts(out, max_failures))
