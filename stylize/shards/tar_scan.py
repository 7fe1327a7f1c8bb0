"""Walk a damaged or hostile tar to its end: every member and every defect, where `tarfile` stops at the first."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from stylize.shards.spans import Span
from stylize.wording import counted

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A member as its header describes it; `kind` is None for a regular file, else what it is instead."""

    name: str
    kind: str | None
    span: Span


def scan_tar(file: BinaryIO, defects: list[str]) -> Iterator[Member]:
    """Yield every member of an uncompressed tar whose payload is there; what else it holds is appended to `defects`.

    After a defect the scan goes on at the next block that is a valid header. Only headers are read.
    """
    end = file.seek(0, os.SEEK_END)
    offset = 0
    while offset + BLOCK <= end:
        header = _header(file, offset)
        span = Span(offset + BLOCK, header.size if header else 0)
        if header and 0 <= span.size <= end - span.offset:
            kind = None if header.type in tarfile.REGULAR_TYPES[:2] else _KINDS.get(header.type, "a special member")
            yield Member(header.name, kind, span)
            offset = span.offset + -(-span.size // BLOCK) * BLOCK
            continue
        following = _next_header(file, span.offset, end)
        if header is None and following == end and _is_zero(file, offset):
            return  # the mark that ends a tar
        if header:
            defects.append(f"member {header.name!r} claims {counted(span.size, 'byte')}, {end - span.offset} left")
        else:
            defects.append(f"no valid header at byte {offset}")
        offset = following
    defects.append("ends without the mark that ends a tar")


def _header(file: BinaryIO, offset: int) -> tarfile.TarInfo | None:
    file.seek(offset)
    try:
        return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None


def _next_header(file: BinaryIO, offset: int, end: int) -> int:
    """Return where the next valid header begins, `end` where there is none."""
    return next((start for start in range(offset, end - BLOCK + 1, BLOCK) if _header(file, start)), end)


def _is_zero(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    return file.read(BLOCK) == _ZEROS
