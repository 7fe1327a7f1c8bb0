"""Bytes of samples that are those of the manifest: a shard is hashed when one of its samples is first read."""

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from tarfile import BLOCKSIZE

import numpy as np
import torch

from stylize.errors import InputError
from stylize.shards.format import image_roles, is_header_of
from stylize.shards.index import SplitIndex, differs
from stylize.shards.spans import open_shard

UNKNOWN = -1
CHUNK = 1 << 20


class VerifiedBytes:
    """Reads parts of samples, and raises `InputError` rather than return a byte that differs from the manifest's.

    One pass over a shard compares its SHA-256 with the manifest's and its headers with the index, and notes a CRC-32
    of every part, which each later reading is compared with.  The notes lie in shared memory, so worker processes hash
    a shard once between them.
    """

    def __init__(self, index: SplitIndex) -> None:
        self.index = index
        self._checks = torch.full(index.spans.shape[:2], UNKNOWN, dtype=torch.int64)
        self._checks.share_memory_()  # type: ignore[no-untyped-call]

    def read(self, index: int, parts: Sequence[int]) -> list[bytes]:
        """Return the chosen parts of a sample: 0 the original, k its k-th copy."""
        noted = self._checks.numpy()
        if UNKNOWN in (checks := noted[index].tolist()):
            self._verify(int(self.index.shards[index]))
            checks = noted[index].tolist()
        payloads = self.index.read(index, parts)
        if [zlib.crc32(payload) for payload in payloads] != [checks[part] for part in parts]:
            raise differs(self.index.path(index))
        return payloads

    def _verify(self, shard: int) -> None:
        """Hash a shard and note its parts' checks, if it is the manifest's and inside as the index says."""
        index, path = self.index, self.index.paths[shard]
        first, last = np.searchsorted(index.shards, [shard, shard + 1]).tolist()
        samples = zip(index.keys[first:last].tolist(), index.labels[first:last].tolist(), strict=True)
        roles = [*image_roles(index.spans.shape[1] - 2), "cls"]
        digest, checks, right = hashlib.sha256(), [], True
        with open_shard(path) as file:
            members = _members(file, index.spans[first:last].reshape(-1, 2).tolist(), digest.update)
            for (key, label), role in product(samples, roles):
                header, payload = next(members)
                right = right and is_header_of(header, key, role, len(payload))
                right = right and (role != "cls" or (payload.isdigit() and int(payload) == label))
                checks.append(zlib.crc32(payload))
            while rest := file.read(CHUNK):
                digest.update(rest)
        if digest.hexdigest() != index.sha256[shard]:
            raise differs(path)
        if not right:
            raise InputError(f"Shard {path} is not as its folder's index says: run `stylize index` on the folder.")
        self._checks[first:last] = torch.tensor(checks).view(last - first, -1)


def _members(
    file: io.BufferedReader, spans: Sequence[Sequence[int]], hashed: Callable[[bytes], None]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield header and payload of each part of a shard; everything up to its end goes through `hashed`."""
    for offset, size in spans:
        between, payload = file.read(offset - file.tell()), file.read(size)
        hashed(between)
        hashed(payload)
        yield between[-BLOCKSIZE:], payload
