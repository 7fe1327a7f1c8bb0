"""A folder of shards from samples that come one after the other: what needs no workers and no resume."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from stylize.errors import InputError
from stylize.runs.collect import check_failures, check_max_failures
from stylize.runs.job import Failure, Report
from stylize.runs.publish import damaged_files, find_folder, publish
from stylize.runs.spec import SAMPLES_PER_SHARD
from stylize.runs.staging import STAGING, locked_staging
from stylize.shards.format import Sample, file_sha256, write_shard
from stylize.shards.manifest import Manifest, ShardEntry

Results = Iterable[Sample | Failure]


def make_sample_set(
    spec: Mapping[str, Any],
    results: Mapping[str, Results],
    out: Path,
    max_failures: int = 0,
    report: Report = lambda images: None,
) -> Manifest:
    """Make the folder `out` of every split's samples and return its manifest; a whole folder is left as it is.

    `spec` is what the manifest will hold. `report` receives numbers of finished images.

    Raises:
        InputError: `out` is damaged, holds something else or cannot be written, another run is making it, or more
            than `max_failures` images could not be made.
    """
    check_max_failures(max_failures)
    out = out.resolve()
    if finished := find_folder(out, spec):
        if damaged := damaged_files(finished, out):
            raise InputError(f"{out} is damaged ({', '.join(damaged)}): remove it and run the same command.")
        return finished
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    staging = out.parent / STAGING / digest[:16]
    try:
        with locked_staging(staging):
            failures: list[Failure] = []
            entries: list[ShardEntry] = []
            for split, made in results.items():
                entries += _write_shards(split, _samples(made, failures, report), staging / "shards", spec["codec"])
            record = check_failures(failures, staging, max_failures)
            failed = len(failures), file_sha256(record) if failures else None
            manifest = Manifest(spec, tuple(entries), *failed)
            publish(manifest, staging, out, replace=False)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): mend it, run the same command.") from None
    return manifest


def _samples(results: Results, failures: list[Failure], report: Report) -> Iterator[Sample]:
    for result in results:
        if isinstance(result, Failure):
            failures.append(result)
        else:
            yield result
        report(1)


def _write_shards(split: str, samples: Iterator[Sample], folder: Path, codec: str) -> Iterator[ShardEntry]:
    number = 0
    while batch := list(islice(samples, SAMPLES_PER_SHARD)):
        path = folder / f"{split}-{number:06d}.tar"
        write_shard(path, batch, codec)
        yield ShardEntry(path.name, split, len(batch), path.stat().st_size, file_sha256(path))
        number += 1
