"""Samples checked one by one as they are read, against the SHA-256 that stand in a file beside their shard."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from stylize.errors import InputError

CHECKSUM_SUFFIX = ".sha256"
_DIGITS = 64
_BETWEEN = b"  "


def checksum_path(shard: Path) -> Path:
    """Return the file of checksums that may stand beside a shard."""
    return shard.with_suffix(CHECKSUM_SUFFIX)


def read_digests(shard: Path, key: str) -> list[str]:
    """Return the SHA-256 of a sample's members in their order: content, copies, label, metadata.

    Number k is that of image k, as a trainer counts them.  Raises `InputError` where the file of checksums is missing
    or does not know the sample.
    """
    path = checksum_path(shard)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run `stylize index` on its folder.") from None
    own = _BETWEEN + key.encode() + b"."
    start = max(0, text.find(own) - _DIGITS)
    lines = text[start : text.rfind(own) + len(own)].split(b"\n")
    if not all(line[_DIGITS:].startswith(own) for line in lines):
        raise InputError(f"{path} does not list sample {key}: run `stylize index` on its folder.")
    return [line[:_DIGITS].decode("ascii", "replace") for line in lines]


def are_intact(payloads: Sequence[bytes], digests: Sequence[str | None]) -> bool:
    """Return whether payloads have these SHA-256; None is that of nothing."""
    return [hashlib.sha256(payload).hexdigest() for payload in payloads] == list(digests)
