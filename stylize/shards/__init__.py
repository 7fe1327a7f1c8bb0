"""Shard format version 1: one tar, its samples, its writer and its readers (docs/shard-format.md).

The room has all that `train` and `attack` need of shards, and no networks.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from stylize.console import InputError


class Span(NamedTuple):
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
    return _read(file.fileno(), span, file.name)


def read_spans(path: Path, spans: Iterable[tuple[int, int]]) -> list[bytes]:
    """Read payloads by (offset, bytes) as `read_span` does, without a buffered file: in a third of the time."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unopened(path, error) from None
    try:
        return [_read(file, span, path) for span in spans]
    finally:
        os.close(file)


def _read(file: int, span: tuple[int, int], path: Path | str) -> bytes:
    offset, size = span
    payload = os.pread(file, size, offset)
    if len(payload) != size:
        raise InputError(f"{path} ends inside a member: fetch or make it again.")
    return payload


_BLOCK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # owner 0, mode 0644, time 0
_NAME, _SIZE = slice(0, 100), slice(124, 136)
_OWNER, _TIME, _KIND = _BLOCK[100:124], _BLOCK[136:148], _BLOCK[156:]  # what is the same for all members
_SAME_SUM = sum(_OWNER + _TIME + _KIND) + sum(b" " * 8)  # a checksum counts spaces in its own place


def tar_header(name: str, size: int) -> bytes:
    """Return a regular member's ustar header, as `tarfile` makes it; raise `ValueError` where it has no room."""
    if len(name) > 100 or not 0 <= size < 8**11:
        raise ValueError(f"Member {name} of {size} bytes does not fit into a ustar header.")
    encoded, digits = name.encode("ascii"), b"%011o" % size
    checksum = b"%06o\0 " % (_SAME_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _OWNER, digits, b"\0", _TIME, checksum, _KIND))


def tar_members(path: Path) -> Iterator[tuple[str, Span | None]]:
    """Yield every member's name and where its payload lies, None for what is not a regular file.

    Raises `OSError`, `tarfile.TarError` or `ValueError` where the tar cannot be read.
    """
    with open(path, "rb") as file:
        end, offset = os.fstat(file.fileno()).st_size, 0
        while own := _own_member(file.fileno(), offset, end):
            yield own
            offset = _padded_end(own[1])
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                plain = member.isreg() and not member.issparse() and member.size >= 0
                yield member.name, Span(member.offset_data, member.size) if plain else None


def _own_member(file: int, offset: int, end: int) -> tuple[str, Span] | None:
    """Return the member whose header lies there, or None where it is not byte for byte one of `tar_header`."""
    block = os.pread(file, tarfile.BLOCKSIZE, offset)
    try:
        name, size = block[_NAME].partition(b"\0")[0].decode("ascii"), int(block[_SIZE].rstrip(b"\0"), 8)
        span = Span(offset + tarfile.BLOCKSIZE, size)
        whole = block == tar_header(name, size) and _padded_end(span) <= end
    except ValueError:
        return None
    return (name, span) if whole else None


def _padded_end(span: Span) -> int:
    end = span.offset + span.size
    return end + -end % tarfile.BLOCKSIZE


FORMAT_VERSION = 1
MAX_COPIES = 100
CODECS = ("jpg", "png", "webp")
_IMAGE = rf"(?:content|styled[0-9]*)(?=\.(?:{'|'.join(CODECS)})$)"
MEMBER_NAME = re.compile(rf"(?P<key>[0-9]+)\.(?P<role>{_IMAGE}|cls$|json$)(?:\.[a-z]+)?")
LABEL = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True)
class Sample:
    """One image, its stylized copies (none in a test shard), its label and its provenance.

    `content` and `styled` are encoded images in the shard's codec; `key` is a zero-padded decimal index.
    """

    key: str
    content: bytes
    styled: tuple[bytes, ...]
    label: int
    metadata: Mapping[str, Any]

    @property
    def images(self) -> tuple[bytes, ...]:
        """The original, then its copies."""
        return self.content, *self.styled


@dataclass(frozen=True, slots=True)
class SampleLocation:
    """Where one sample lies, so that it can be read without reading the rest of its shard."""

    shard: Path
    key: str
    label: int
    content: Span
    styled: tuple[Span, ...]
    label_span: Span
    metadata: Span


def sample_members(sample: Sample, codec: str) -> Iterator[tuple[str, bytes]]:
    """Yield the sample's (member name, payload) pairs in the order that the format fixes."""
    for role, image in zip(image_roles(len(sample.styled)), sample.images, strict=True):
        yield f"{sample.key}.{role}.{codec}", image
    yield f"{sample.key}.cls", str(sample.label).encode("ascii")
    yield f"{sample.key}.json", json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False).encode()


def write_shard(path: Path, samples: Iterable[Sample], codec: str = "jpg") -> int:
    """Write samples as a ustar with constant headers, flush it to disk and return their number.

    The caller chooses a temporary `path` and renames it: a file under its final name is always whole.
    """
    count = 0
    with open(path, "wb", buffering=1 << 20) as file:
        for sample in samples:
            count += 1
            for name, payload in sample_members(sample, codec):
                file.write(tar_header(name, len(payload)))
                file.write(payload)
                file.write(bytes(-len(payload) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
        file.flush()
        os.fsync(file.fileno())
    return count


def shard_members(path: Path) -> Iterator[tuple[re.Match[str], Span]]:
    """Yield every member's name, matched by `MEMBER_NAME`, and span; refuse any that the format does not name.

    Raises `InputError` for those and where the tar cannot be read.
    """
    try:
        for name, span in tar_members(path):
            match = MEMBER_NAME.fullmatch(name)
            if match is None or span is None:
                raise InputError(f"{path} holds the foreign member {name!r}: do not use this shard.")
            yield match, span
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"Shard {path} cannot be read ({error}): fetch or make it again.") from None


def index_shard(path: Path) -> Iterator[SampleLocation]:
    """Yield the location of every sample of a shard, in its order; raise `InputError` on any defect of structure."""
    seen: set[str] = set()
    with open_shard(path) as file:
        for key, group in groupby(shard_members(path), key=lambda member: member[0]["key"]):
            members = [(name["role"], span) for name, span in group]
            if key in seen:
                raise InputError(f"{path} holds key {key} twice: make the shard again.")
            seen.add(key)
            roles, spans = [role for role, _ in members], [span for _, span in members]
            if roles != [*image_roles(len(members) - 3), "cls", "json"]:
                raise InputError(f"{path}: sample {key} has the members {roles}: it is incomplete, make it again.")
            label = read_span(file, spans[-2])
            if not LABEL.fullmatch(label):
                raise InputError(f"{path}: sample {key} has the label {label[:40]!r}, no number: make it again.")
            yield SampleLocation(path, key, int(label), spans[0], tuple(spans[1:-2]), spans[-2], spans[-1])


def is_header_of(block: bytes, key: str, role: str, size: int) -> bool:
    """Return whether a ustar header announces a sample's member of so many bytes, as a regular file."""
    name = MEMBER_NAME.fullmatch(block[:100].rstrip(b"\0").decode("ascii", "replace"))
    regular, digits = block[156:157] in (tarfile.REGTYPE, tarfile.AREGTYPE), block[124:136].strip(b"\0 ")
    named = name is not None and (name["key"], name["role"]) == (key, role)
    return regular and named and digits.isdigit() and int(digits, 8) == size


def image_roles(copies: int) -> list[str]:
    """Return the names of a sample's images in their order: `content`, then its copies."""
    return ["content", *(["styled"] if copies == 1 else [f"styled{k}" for k in range(copies)])]


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield every sample of a shard, in its order; raise `InputError` on any defect of structure."""
    with open_shard(path) as file:
        for location in index_shard(path):
            yield read_sample(file, location)


def read_sample(file: io.BufferedReader, location: SampleLocation) -> Sample:
    """Read one located sample from its open shard."""
    try:
        metadata = parse_metadata(read_span(file, location.metadata))
    except ValueError as error:
        raise InputError(f"{location.shard}: sample {location.key}: metadata {error}: make the shard again.") from None
    content = read_span(file, location.content)
    styled = tuple(read_span(file, span) for span in location.styled)
    return Sample(location.key, content, styled, location.label, metadata)


def parse_metadata(payload: bytes) -> dict[str, Any]:
    """Return a sample's metadata; raise `ValueError` where the payload is not a JSON object."""
    try:
        metadata = json.loads(payload)
    except (ValueError, RecursionError):
        raise ValueError("that are not JSON") from None
    if not isinstance(metadata, dict):
        raise ValueError("that are not a JSON object")
    return metadata
