"""A folder of shards made of samples that come one by one: packed, merged or cue-conflict ones."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from stylize.jobs.job import Failure
from stylize.jobs.output import check_max_failures, make_output, publish, refuse_damaged
from stylize.jobs.receipts import write_failures
from stylize.jobs.spec import SAMPLES_PER_SHARD
from stylize.progress import Report
from stylize.shards.manifest import Manifest, ShardEntry
from stylize.shards.shard import Sample, file_sha256, write_shard

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

    def keep(finished: Manifest) -> Manifest:
        refuse_damaged(finished, out, "remove it and run the same command")
        return finished

    def make(staging: Path, _finished: Manifest | None) -> Manifest:
        for path in (staging / "shards").iterdir():  # of an interrupted run: samples come again from the first on
            path.unlink()
        failures: list[Failure] = []
        entries: list[ShardEntry] = []
        for split, made in results.items():
            entries += _write_shards(split, _samples(made, failures, report), staging / "shards", spec["codec"])
        manifest = Manifest(spec, tuple(entries), *write_failures(failures, staging, max_failures))
        publish(manifest, staging, out.resolve())
        return manifest

    return make_output(out, spec, make, keep)


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
