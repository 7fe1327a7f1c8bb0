"""Samples checked one by one as they are read, against the SHA-256 that stand in a file beside their shard."""

import hashlib
import io
import re
from pathlib import Path

from stylize.errors import InputError
from stylize.shards.format import MEMBER_NAME
from stylize.shards.spans import Span, read_span

CHECKSUM_SUFFIX = ".sha256"
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
Digests = dict[str, tuple[bytes, ...]]


def read_digests(shard: Path) -> Digests | None:
    """Return the SHA-256 of a shard's members by the key of their sample, in the order of its members.

    That is content, copies, label, metadata: number k is that of image k, as a trainer counts them. None where no file
    of checksums stands beside the shard, as in folders that were made before there were any.
    Raises `InputError` where the file is damaged.
    """
    path = shard.with_suffix(CHECKSUM_SUFFIX)
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): run `stylize index` on its folder.") from None
    digests: Digests = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        member = MEMBER_NAME.fullmatch(found["name"]) if found else None
        if not (found and member):
            raise InputError(f"{path} has the line {line[:80]!r}: run `stylize index` on its folder.")
        digests[member["key"]] = (*digests.get(member["key"], ()), bytes.fromhex(found["digest"]))
    return digests


def read_checked(file: io.BufferedReader, span: Span, digest: bytes) -> bytes:
    """Read one member's payload from its open shard; raise `InputError` where its SHA-256 is another."""
    payload = read_span(file, span)
    if hashlib.sha256(payload).digest() != digest:
        raise InputError(f"{file.name} is damaged at byte {span.offset}: fetch or make it again.")
    return payload
