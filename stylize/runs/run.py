"""`stylize shards`: from a data set to a published folder of shards, one shard at a time, resumable in between."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from stylize.errors import InputError
from stylize.runs.collect import check_max_failures, collect_manifest
from stylize.runs.job import Job, Report
from stylize.runs.local import make_locally
from stylize.runs.publish import (
    accepted,
    compares_hashes,
    damaged_files,
    find_finished,
    needs_retry,
    plain_spec,
    publish,
    remove_staging,
)
from stylize.runs.quality import small_images_note
from stylize.runs.receipts import adopt_shards, read_receipts
from stylize.runs.spec import ShardPlan, Spec, plan_shards, shard_sizes
from stylize.runs.staging import locked_staging, staging_folder
from stylize.shards.manifest import Manifest
from stylize.sources.source import Source

Notice = Callable[[str], None]
MakeAll = Callable[[Path, Iterator[ShardPlan]], object]  # makes the shards that are not finished in the staging folder


def make_shards(
    job: Job,
    out: Path,
    max_failures: int = 0,
    report: Report = lambda images: None,
    *,
    retry_failed: bool = False,
    notice: Notice = lambda sentence: None,
) -> Manifest:
    """Make a job's shards in the folder `out` and return their manifest; a finished and whole folder is left as it is.

    Of a finished folder the files' sizes are compared with its manifest, and their SHA-256 where all are 1 GB or less;
    shards that are damaged or missing are made again.
    Work in progress lies in a hidden folder beside `out`, named by the specification's hash: the same call goes on
    where an interrupted one stopped, reads images that failed again, and never mixes with another job.
    With `retry_failed` a finished folder that lacks images, or whose images have changed since, is made anew from its
    shards that are whole and agree with the source; only the others are made again.
    `report` receives numbers of finished images, from any thread but never from two at once; `notice` receives,
    in a sentence, what was found in a finished folder, or advice on small images.

    Raises:
        InputError: `out` holds something else or cannot be written, another run is at work, or more than
            `max_failures` images could not be used (what was made is kept for a rerun with a higher limit).
    """
    make_all = partial(make_locally, job, report)
    return run_job(job.spec, job.source, make_all, out, max_failures, retry_failed, notice)


def run_job(
    spec: Spec, source: Source, make_all: MakeAll, out: Path, max_failures: int, retry_failed: bool, notice: Notice
) -> Manifest:
    """Do as `make_shards`, with an engine that makes the shards."""
    check_max_failures(max_failures)
    out = out.resolve()  # a link to a folder could not be renamed onto
    finished = find_finished(out, spec, other_images=retry_failed)
    staging = staging_folder(out, spec)
    try:
        if finished and not staging.exists() and not _needs_work(finished, spec, out, retry_failed, notice):
            return accepted(finished, out, max_failures)
        with locked_staging(staging):
            finished = find_finished(out, spec, other_images=retry_failed)  # maybe by another run, until just now
            if finished and not _needs_work(finished, spec, out, retry_failed, notice):
                remove_staging(staging)
                return accepted(finished, out, max_failures)
            if finished:
                adopt_shards(spec, source, finished, out, staging)
            elif advice := small_images_note(spec, source):
                notice(advice)
            make_all(staging, plan_shards(spec, source))
            read = partial(read_receipts, staging, shard_sizes(spec.counts, spec.samples_per_shard))
            manifest = collect_manifest(read, plain_spec(spec), source.left_out, staging, max_failures)
            publish(manifest, staging, out, replace=finished is not None)
            return manifest
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def _needs_work(finished: Manifest, spec: Spec, out: Path, retry_failed: bool, notice: Notice) -> bool:
    """Return whether a finished folder is to be made anew from its whole shards, and say what was found."""
    if damaged := damaged_files(finished, out):
        notice(f"{out}: damaged or missing, made again: {', '.join(damaged)}")
        return True
    if needs_retry(finished, spec, retry_failed):
        return True
    compared = "sizes and SHA-256" if compares_hashes(finished) else "sizes (`stylize verify` reads everything)"
    notice(f"{out}: finished already, {compared} as recorded")
    return False
