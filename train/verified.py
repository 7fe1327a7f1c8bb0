"""Bytes of samples that are those of the manifest: a shard is hashed when one of its samples is first read."""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
import torch

from stylize.shards.format import open_shard
from stylize.shards.index import SplitIndex, differs

UNKNOWN = -1
MAX_DIGITS = 9  # of a label, by the format
CHUNK = 1 << 20


class VerifiedBytes:
    """Reads parts of samples, and raises `InputError` rather than return a byte that differs from the manifest's.

    One pass over a shard compares its SHA-256 with the manifest's and notes a CRC-32 of every part, which each later
    reading is compared with.  The notes lie in shared memory, so worker processes hash a shard once between them.
    """

    def __init__(self, index: SplitIndex) -> None:
        self.index = index
        self._checks = torch.full(index.spans.shape[:2], UNKNOWN, dtype=torch.int64)
        self._checks.share_memory_()  # type: ignore[no-untyped-call]

    def read(self, index: int, parts: Sequence[int]) -> list[bytes]:
        """Return the chosen parts of a sample: 0 the original, k its k-th copy."""
        checks = self._checks[index].tolist()
        if UNKNOWN in checks:
            self._verify(int(self.index.shards[index]))
            checks = self._checks[index].tolist()
        payloads = self.index.read(index, parts)
        if any(zlib.crc32(payload) != checks[part] for part, payload in zip(parts, payloads, strict=True)):
            raise differs(self.index.path(index))
        return payloads

    def _verify(self, shard: int) -> None:
        """Hash a shard and note its parts' checks, if it is the manifest's and has the labels of the index."""
        first, last = np.searchsorted(self.index.shards, [shard, shard + 1]).tolist()
        digest, checks, labels = hashlib.sha256(), [], []
        with open_shard(self.index.paths[shard]) as file:
            for parts in self.index.spans[first:last].tolist():
                for offset, size in parts:
                    digest.update(file.read(offset - file.tell()))
                    digest.update(payload := file.read(size))
                    checks.append(zlib.crc32(payload))
                labels.append(payload.zfill(MAX_DIGITS))
            while rest := file.read(CHUNK):
                digest.update(rest)
        expected = [b"%0*d" % (MAX_DIGITS, label) for label in self.index.labels[first:last].tolist()]
        if digest.hexdigest() != self.index.sha256[shard] or labels != expected:
            raise differs(self.index.paths[shard])
        self._checks[first:last] = torch.tensor(checks).view(last - first, -1)
