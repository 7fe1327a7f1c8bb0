"""A job cut into parts that separate processes make, say those of a job array; `stylize publish` joins them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.runs.collect import check_max_failures, collect_manifest, missing_receipts, too_many_failures
from stylize.runs.job import Job, Report
from stylize.runs.local import make_locally
from stylize.runs.publish import (
    accepted,
    damaged_files,
    find_finished,
    find_folder,
    plain_spec,
    publish,
    remove_staging,
)
from stylize.runs.quality import small_images_note
from stylize.runs.receipts import read_receipt, read_receipts
from stylize.runs.run import Notice
from stylize.runs.spec import Spec, plan_shards, shard_sizes
from stylize.runs.staging import STAGING, locked_staging, staging_folder
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from stylize.wording import counted

_RECORD_NAME = "job.json"  # what `publish_parts` needs to know, so that it needs neither images nor networks


@dataclass(frozen=True)
class Part:
    """The `number`-th of `count` parts of a job's shards, counted from 1: every count-th shard."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"--only is {self.number}/{self.count}: give a part from 1/{self.count} on.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def images(self, spec: Spec) -> int:
        """Return how many images the part is made of."""
        sizes = shard_sizes(spec.counts, spec.samples_per_shard)
        return sum(islice(sizes.values(), self.number - 1, None, self.count))


def parse_part(text: str) -> Part:
    """Return the part that `3/16` names."""
    number, slash, count = text.partition("/")
    if not slash or not (number.isdecimal() and count.isdecimal()):
        raise InputError(f"--only is {text!r}: give part and number of parts, as 3/16.")
    return Part(int(number), int(count))


def make_part(
    job: Job,
    out: Path,
    part: Part,
    max_failures: int = 0,
    report: Report = lambda images: None,
    notice: Notice = lambda sentence: None,
) -> int:
    """Make a part of a job's shards for the folder `out` and return how many of the part are finished: all of them.

    Any number of processes may do so at once, on machines that share the folder beside `out`; each shard is made by
    one of them, and finished ones are not made again. `publish_parts` must follow when all parts are finished.
    `report` and `notice` are as in `make_shards`.

    Raises:
        InputError: `out` holds something else or damaged shards, or cannot be written; the whole job is being made or
            published; or more than `max_failures` images of this part could not be used (its shards are kept).
    """
    check_max_failures(max_failures)
    out = out.resolve()
    plans = list(islice(plan_shards(job.spec, job.source), part.number - 1, None, part.count))
    if finished := find_finished(out, job.spec):
        if damaged := damaged_files(finished, out):
            raise InputError(f"{out} is damaged ({', '.join(damaged)}): run the same command without --only.")
        return len(plans)
    staging = staging_folder(out, job.spec)
    try:
        with locked_staging(staging, shared=True):
            if find_finished(out, job.spec):  # published until just now
                remove_staging(staging)
                return len(plans)
            _write_record(job, out, staging)
            if advice := small_images_note(job.spec, job.source):
                notice(advice)
            failures = [failure for shard in make_locally(job, report, staging, plans) for failure in shard]
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None
    if len(failures) > max_failures:
        raise too_many_failures(failures, f"part {part}")
    return len(plans)


def _write_record(job: Job, out: Path, staging: Path) -> None:
    record = {"out": out.name, "spec": plain_spec(job.spec), "left_out": dict(job.source.left_out)}
    payload = json.dumps(record).encode()
    path = staging / _RECORD_NAME
    if not path.is_file() or path.read_bytes() != payload:
        write_atomically(path, payload)


def publish_parts(out: Path, max_failures: int = 0) -> Manifest:
    """Publish the folder `out` from the finished parts of its job; where that has been done, return its manifest.

    Raises:
        InputError: there are no parts, some shards are missing, parts are being made, or more than `max_failures`
            images could not be used.
    """
    check_max_failures(max_failures)
    out = out.resolve()
    records = dict(_records(out))
    if not records and (out / MANIFEST_NAME).is_file():
        return accepted(read_manifest(out), out, max_failures)
    staging = _only_one(records, out)
    try:
        with locked_staging(staging):
            return _publish_record(records[staging], staging, out, max_failures)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None


def _records(out: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the staging folders of parts for `out`, and what their jobs are."""
    for path in sorted((out.parent / STAGING).glob(f"*/{_RECORD_NAME}")):
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:  # published just now
            continue
        if record["out"] == out.name:
            yield path.parent, record


def _only_one(records: Mapping[Path, Mapping[str, Any]], out: Path) -> Path:
    if not records:
        raise InputError(f"{out} has no parts to publish: run `stylize shards --only 1/N` with this --out, and so on.")
    specs = [record["spec"] for record in records.values()]
    if len(records) > 1:
        values = "; ".join(
            f"{name}: {', '.join(str(spec.get(name)) for spec in specs)}"
            for name in sorted(set().union(*specs))
            if any(spec.get(name) != specs[0].get(name) for spec in specs)
        )
        folders = ", ".join(str(staging) for staging in records)
        raise InputError(
            f"{out} has parts of {len(records)} jobs, which differ ({values}): their shards do not go together; "
            f"remove the wrong one of {folders}."
        )
    return next(iter(records))


def _publish_record(record: Mapping[str, Any], staging: Path, out: Path, max_failures: int) -> Manifest:
    spec = record["spec"]
    if finished := find_folder(out, spec):  # by another run, until just now
        remove_staging(staging)
        return accepted(finished, out, max_failures)
    names = shard_sizes(spec["counts"], spec["samples_per_shard"])
    if missing := missing_receipts(names, partial(read_receipt, staging), spec["source_fingerprint"]):
        raise InputError(
            f"{counted(len(missing), 'shard')} of {len(names)} are missing (first: {missing[0]}): "
            "run the parts again that did not end well."
        )
    manifest = collect_manifest(partial(read_receipts, staging, names), spec, record["left_out"], staging, max_failures)
    publish(manifest, staging, out, replace=False)
    return manifest
