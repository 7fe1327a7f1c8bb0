"""From the receipts of finished shards to the manifest; one receipt is in memory at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylize.errors import InputError
from stylize.runs.job import Failure, Receipt
from stylize.runs.quality import flag_repeated
from stylize.shards.format import file_sha256
from stylize.shards.manifest import FAILURES_NAME, Flag, Manifest, ShardEntry
from stylize.wording import counted

ReadReceipts = Callable[[], Iterator[Receipt]]


def collect_manifest(
    read: ReadReceipts, spec: Mapping[str, Any], left_out: Mapping[str, int], staging: Path, max_failures: int
) -> Manifest:
    """Return the manifest of a job's shards and write `failures.jsonl` into the staging folder.

    `read` yields the receipts in the order of the shards, as often as it is called.
    Raises `InputError` where more than `max_failures` images could not be used.
    """
    shards: list[ShardEntry] = []
    failures: list[Failure] = []
    flags: list[Flag] = []
    for receipt in read():
        shards.append(receipt.shard)
        failures += receipt.failures
        flags += receipt.flags
    record = check_failures(failures, staging, max_failures)
    failed = len(failures), file_sha256(record) if failures else None
    return Manifest(spec, tuple(shards), *failed, (*flags, *_repeated_flags(read)), dict(left_out))


def _repeated_flags(read: ReadReceipts) -> Iterator[Flag]:
    """Yield a flag for every image of another split whose file is in train too: what only all shards together show.

    SHA-256 are compared whole, but only for images whose first 64 bits match.
    """
    prefixes = np.sort(np.concatenate([_no_prefixes(), *(_prefixes(one) for one in read() if not _is_train(one))]))
    train: set[str] = set()
    for receipt in read() if len(prefixes) else ():
        if _is_train(receipt):
            own = _prefixes(receipt)
            found = prefixes[np.minimum(np.searchsorted(prefixes, own), len(prefixes) - 1)] == own
            train.update(sha256 for sha256, match in zip(receipt.sources.values(), found, strict=True) if match)
    for receipt in read() if train else ():
        if not _is_train(receipt):
            yield from flag_repeated(train, receipt.sources.items(), receipt.shard.split)


def _is_train(receipt: Receipt) -> bool:
    return receipt.shard.split == "train"


def _no_prefixes() -> NDArray[np.uint64]:
    return np.zeros(0, np.uint64)


def _prefixes(receipt: Receipt) -> NDArray[np.uint64]:
    return np.array([int(sha256[:16], 16) for sha256 in receipt.sources.values()], np.uint64)


def check_failures(failures: Sequence[Failure], staging: Path, max_failures: int) -> Path:
    """Write `failures.jsonl` into the staging folder and return its path, if its lines are not too many."""
    record = staging / FAILURES_NAME
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
    record.write_text(lines, encoding="utf-8")
    if len(failures) > max_failures:
        raise too_many_failures(failures, f"all: {record}")
    return record


def too_many_failures(failures: Sequence[Failure], remark: str) -> InputError:
    """Return the error that names the first image that could not be used and says what to do."""
    first = f"{failures[0].path} {failures[0].reason}"
    return InputError(
        f"{counted(len(failures), 'image')} could not be used (first: {first}; {remark}): "
        f"mend, or accept with --max-failures {len(failures)}; finished shards are kept."
    )


def check_max_failures(max_failures: int) -> None:
    """Raise `InputError` for a number of failures that is none."""
    if max_failures < 0:
        raise InputError(f"--max-failures is {max_failures}: give 0 or more.")


def missing_receipts(names: Iterable[str], read: Callable[[str], Receipt | None], fingerprint: str) -> list[str]:
    """Return the names of shards that are not finished, or were made from other images than the job's."""
    receipts = ((name, read(name)) for name in names)
    return [name for name, receipt in receipts if receipt is None or receipt.source_fingerprint != fingerprint]
