"""`stylize shards --engine ray`: a job made by a cluster."""

from functools import partial
from pathlib import Path

from stylize.cli.summary import print_summary
from stylize.command_line import console, print_notice
from stylize.errors import InputError
from stylize.runs.job import open_job
from stylize.runs.progress import images_progress
from stylize.runs.ray_engine import make_shards_on_ray, ray_pool
from stylize.runs.spec import ShardOptions
from stylize.sources.source import open_source

ENGINES = ("local", "ray")
ENGINE_HELP = "local, or ray: on the cluster at RAY_ADDRESS, else on one started on this machine."


def uses_ray(engine: str, only: str | None) -> bool:
    """Return whether an engine is Ray; raise `InputError` where there is none such, or where it makes no parts."""
    if engine not in ENGINES:
        raise InputError(f"--engine is {engine!r}: give {' or '.join(ENGINES)}.")
    if engine == "ray" and only:
        raise InputError("--only makes a part in this process, and --engine ray all shards: give one of them.")
    return engine == "ray"


def make_on_ray(options: ShardOptions, out: Path, max_failures: int, retry_failed: bool) -> None:
    """Make a job's shards on a cluster and say so."""
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    with (
        ray_pool(partial(open_job, options)) as pool,
        images_progress(console, "Stylizing", sum(pool.spec.counts.values())) as report,
    ):
        manifest = make_shards_on_ray(
            pool, source, out, max_failures, report, retry_failed=retry_failed, notice=print_notice
        )
    print_summary(out, manifest, "".join(f"; {note}" for note in source.notes))
