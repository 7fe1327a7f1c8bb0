"""Parts of shards read by their places."""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stylize.errors import InputError


@dataclass(frozen=True, slots=True)
class Span:
    """Where one member's payload lies in its tar, in bytes."""

    offset: int
    size: int


def open_shard(path: Path) -> io.BufferedReader:
    """Open a shard for reading; a missing or unreadable file is an `InputError`."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise _unopened(path, error) from None


def _unopened(path: Path, error: OSError) -> InputError:
    return InputError(f"Shard {path} cannot be opened ({error.strerror}): fetch or make it again.")


def read_span(file: io.BufferedReader, span: Span) -> bytes:
    """Read one member's payload from its open shard."""
    file.seek(span.offset)
    payload = file.read(span.size)
    if len(payload) != span.size:
        raise _cut_off(file.name)
    return payload


def read_spans(path: Path, spans: Iterable[tuple[int, int]]) -> list[bytes]:
    """Read payloads by (offset, bytes) as `read_span` does, without a buffered file: in a third of the time."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unopened(path, error) from None
    try:
        payloads = [(os.pread(file, size, offset), size) for offset, size in spans]
    finally:
        os.close(file)
    if any(len(payload) != size for payload, size in payloads):
        raise _cut_off(path)
    return [payload for payload, _ in payloads]


def _cut_off(path: Path | str) -> InputError:
    return InputError(f"{path} ends inside a member: fetch or make it again.")
