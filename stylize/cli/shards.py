"""`stylize shards`, `publish` and `cue-conflict`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylize.cli.tools import failed_text, print_summary
from stylize.console import Effort, InputError, console, counted, counted_progress, print_notice
from stylize.console.settings import options_of
from stylize.interruption import imports_torch
from stylize.jobs.spec import ShardOptions
from stylize.networks import COLOURS

if TYPE_CHECKING:
    from stylize.jobs.job import Job

EXECUTORS = ("local", "ray")
EXECUTOR_HELP = "local, or ray: on the cluster at RAY_ADDRESS, else on one started on this machine."
ONLY_HELP = "Make the third of 16 parts, 3/16, say in a job array; `stylize publish` joins them."
RETRY_HELP = "Make the shards of a finished folder again that lack images or whose images changed."
DRY_RUN_HELP = "Say what it would make and take, from a probe of ten seconds."
SHARDS = Path("data/shards")
MACHINE_SECONDS = 0.2  # in which the machine's rate is measured
MaxFailures = Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")]
Out = Annotated[Path, typer.Argument(help="The --out of the parts.")]


@options_of(ShardOptions)
@imports_torch
def shards(
    given: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="Folder to make; data/shards/STYLE if not given.")] = None,
    max_failures: MaxFailures = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help=RETRY_HELP)] = False,
    executor: Annotated[str, typer.Option(help=EXECUTOR_HELP)] = "local",
    only: Annotated[str | None, typer.Option(help=ONLY_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_RUN_HELP)] = False,
) -> None:
    """Make shards of originals and stylized copies; run the same command again to go on after an interruption."""
    options = ShardOptions(**given)
    own = [options.stylizer.replace(":", ".").rpartition(".")[2]] if options.stylizer else []
    styles = () if own and "style" not in given else options.style
    out = out or SHARDS / "-".join([*own, *(Path(name).stem for name in styles)])
    if executor not in EXECUTORS:
        raise InputError(f"--executor is {executor!r}: give {' or '.join(EXECUTORS)}.")
    if executor == "ray" and only:
        raise InputError("--only makes a part in this process, and --executor ray all shards: give one of them.")
    if dry_run:
        _print_plan(options, out, retry_failed)
    elif not given.keys() & {"style", "data", "stylizer"}:
        raise InputError(
            f"This would make pairs of the built-in data set {options.data}, stylized as {options.style[0]}, in {out}: "
            f"give --style {options.style[0]} for that, or --style and --data of your own."
        )
    elif executor == "ray":
        _make_on_ray(options, out, max_failures, retry_failed)
    elif only:
        _make_only(options, out, only, max_failures, retry_failed)
    else:
        _make(options, out, max_failures, retry_failed)


def publish(out: Out, max_failures: MaxFailures = 0) -> None:
    """Publish a folder whose parts were made by `stylize shards --only`."""
    from stylize.jobs.run import publish_parts

    print_summary(out, publish_parts(out, max_failures))


def _make(options: ShardOptions, out: Path, max_failures: int, retry_failed: bool) -> None:
    from stylize.jobs.job import open_job
    from stylize.jobs.run import make_shards

    job = open_job(options)
    with counted_progress(console, "Stylizing", sum(job.spec.counts.values()), effort=_effort(job)) as report:
        manifest = make_shards(job, out, max_failures, report, retry_failed=retry_failed, notice=print_notice)
    print_summary(out, manifest, "".join(f"; {note}" for note in job.source.notes))


def _effort(job: "Job") -> Effort | None:
    """Return what an image of one size costs in the networks, and what torch reaches here in the job's type."""
    from stylize.networks.adain import stylization_flops
    from stylize.networks.devices import matrix_rate
    from stylize.networks.stylizer import Stylizer

    spec, stylizer = job.spec, job.stylizer
    if spec.size is None or spec.transfer == COLOURS or not isinstance(stylizer, Stylizer):
        return None
    side = spec.work_size or spec.size
    rate = matrix_rate(stylizer.device, stylizer.dtype, MACHINE_SECONDS) if stylizer.backend == "torch" else 0.0
    return Effort(stylization_flops(side, side) * spec.styles_per_image, spec.counts["train"], rate)


def _make_only(options: ShardOptions, out: Path, only: str, max_failures: int, retry_failed: bool) -> None:
    from stylize.jobs.job import open_job
    from stylize.jobs.run import make_part, parse_part

    part = parse_part(only)
    if retry_failed:
        raise InputError("--retry-failed makes a finished folder anew: give it without --only.")
    job = open_job(options)
    with counted_progress(console, "Stylizing", part.images(job.spec)) as report:
        shards = make_part(job, out, part, max_failures, report, print_notice)
    console.print(f"{out}: part {part} is finished, {counted(shards, 'shard')}; then: stylize publish {out}")


def _make_on_ray(options: ShardOptions, out: Path, max_failures: int, retry_failed: bool) -> None:
    from stylize.jobs.job import open_job
    from stylize.jobs.ray import make_shards_on_ray, ray_pool
    from stylize.sources.opening import open_source

    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    with (
        ray_pool(partial(open_job, options)) as pool,
        counted_progress(console, "Stylizing", sum(pool.spec.counts.values())) as report,
    ):
        manifest = make_shards_on_ray(
            pool, source, out, max_failures, report, retry_failed=retry_failed, notice=print_notice
        )
    print_summary(out, manifest, "".join(f"; {note}" for note in source.notes))


def _print_plan(options: ShardOptions, out: Path, retry_failed: bool) -> None:
    from stylize.jobs.estimate import estimate_run, size_advice
    from stylize.jobs.job import open_job
    from stylize.jobs.output import find_finished
    from stylize.jobs.run import needs_work

    job = open_job(options)
    finished = find_finished(out, job.spec.document(), other_images=retry_failed)
    if finished and not needs_work(finished, job.spec, out, retry_failed):
        console.print(f"{out}: finished, nothing to do")
        return
    estimate = estimate_run(job, out)
    minutes, pace = estimate.seconds / 60, estimate.images / max(estimate.seconds, 1e-9)
    console.print(
        f"{out}: {'at most ' if finished else ''}"
        f"{counted(estimate.images, 'image')} in {counted(estimate.shards, 'shard')}, "
        f"about {estimate.bytes / 1e6:.1f} MB of {estimate.free / 1e6:.0f} MB free, "
        f"about {minutes:.1f} min at {pace:.3g} images/s; nothing was written"
    )
    if not finished and (advice := size_advice(job)):
        print_notice(advice)
    if estimate.bytes > estimate.free:
        console.print("Warning: the disk is too small for this", style="yellow")


CUE_OPTIONS = "data size work_size alpha seed test_fraction codec quality dtype encoder decoder"


@options_of(ShardOptions, *CUE_OPTIONS.split())
@imports_torch
def cue_conflict(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    per_class: Annotated[int, typer.Option(min=1, help="Test images of every class.")] = 100,
    max_failures: MaxFailures = 0,
    texture_free: Annotated[bool, typer.Option("--texture-free", help="Plain shapes instead (shapes only).")] = False,
) -> None:
    """Make test shards with the shape of one class and the texture of another, for `attack shape-bias`.

    The seed is to be that of the shards that models learn from: it chooses the held-out images too.
    """
    from stylize.jobs.cue_conflict import CUE_CONFLICT, TEXTURE_FREE, make_cue_set, open_cue_set

    kind = TEXTURE_FREE if texture_free else CUE_CONFLICT
    cues = open_cue_set(ShardOptions(**given), per_class, kind)
    with counted_progress(console, f"Making {kind} images", cues.spec["counts"]["test"]) as report:
        manifest = make_cue_set(cues, out, max_failures, report)
    console.print(f"{out}: {counted(manifest.samples('test'), f'{kind} test image')}{failed_text(manifest)}")
