"""The tar headers of shards, written and read many times as fast as by `tarfile`, which reads all others."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from stylize.shards.spans import Span

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
