"""The shards of a job made in parts, as a job array does, and the folder that all parts make."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stylize.console import InputError, counted
from stylize.files import write_atomically
from stylize.jobs.estimate import size_advice
from stylize.jobs.job import Job
from stylize.jobs.output import STAGING, accepted, check_failures, check_max_failures, make_output, refuse_damaged
from stylize.jobs.receipts import missing_receipts, publish_receipts
from stylize.jobs.run import Notice, make_locally
from stylize.jobs.spec import Spec, plan_shards, shard_sizes
from stylize.progress import Report
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest

RECORD_NAME = "job.json"  # what `publish_parts` needs to know, so that it needs neither images nor networks


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
    plans = list(islice(plan_shards(job.spec, job.source), part.number - 1, None, part.count))

    def keep(finished: Manifest) -> int:
        refuse_damaged(finished, out, "run the same command without --only")
        return len(plans)

    def make(staging: Path, _finished: Manifest | None) -> int:
        _write_record(job, out.resolve(), staging)
        if advice := size_advice(job):
            notice(advice)
        check_failures(make_locally(job, report, staging, plans), max_failures, f"part {part}")
        return len(plans)

    return make_output(out, job.spec.document(), make, keep, shared=True)


def _write_record(job: Job, out: Path, staging: Path) -> None:
    record = {"out": out.name, "spec": job.spec.document(), "left_out": dict(job.source.ignored)}
    payload = json.dumps(record).encode()
    path = staging / RECORD_NAME
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
    record = _only_one(records, out)
    spec = record["spec"]

    def make(staging: Path, _finished: Manifest | None) -> Manifest:
        if missing := missing_receipts(spec, staging):
            total = len(shard_sizes(spec["counts"], spec["samples_per_shard"]))
            raise InputError(
                f"{counted(len(missing), 'shard')} of {total} are missing (first: {missing[0]}): "
                "run the parts again that did not end well."
            )
        return publish_receipts(spec, record["left_out"], staging, out, max_failures)

    return make_output(out, spec, make, lambda finished: accepted(finished, out, max_failures))


def _records(out: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the staging folders of parts for `out`, and what their jobs are."""
    for path in sorted((out.parent / STAGING).glob(f"*/{RECORD_NAME}")):
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:  # published just now
            continue
        if record["out"] == out.name:
            yield path.parent, record


def _only_one(records: Mapping[Path, Mapping[str, Any]], out: Path) -> Mapping[str, Any]:
    if not records:
        raise InputError(f"{out} has no parts to publish: run `stylize shards --only 1/N` with this --out, and so on.")
    if len(records) > 1:
        specs = [record["spec"] for record in records.values()]
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
    (record,) = records.values()
    return record
