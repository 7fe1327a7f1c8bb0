"""Samples of shards that stay behind their URL, because the cache cannot hold them: read in parts, each checked."""

from collections.abc import Sequence
from functools import cached_property

from stylize.shards.checked import are_intact, read_digests
from stylize.shards.index import SplitIndex, differs
from stylize.shards.remote import RemoteFolder


class StreamedBytes:
    """Reads parts of samples from a URL, and raises `InputError` rather than return a byte of another SHA-256.

    A sample's images lie side by side, so each is one request; `fetch` makes those of a batch at once.
    """

    def __init__(self, url: str, index: SplitIndex) -> None:
        self.url, self.index = url, index
        self._fetched: dict[int, bytes] = {}

    @cached_property
    def _remote(self) -> RemoteFolder:
        return RemoteFolder(self.url)

    def holds(self, index: int) -> bool:
        """Return whether a sample's shard is not here."""
        return not self.index.path(index).exists()

    def fetch(self, indices: Sequence[int], images: int) -> None:
        """Fetch the first images of samples, for the readings that follow; those fetched before are forgotten."""
        self._fetched = self._parts([index for index in dict.fromkeys(indices) if self.holds(index)], images)

    def read(self, index: int, parts: Sequence[int]) -> list[bytes]:
        """Return the chosen parts of a sample: 0 the original, k its k-th copy."""
        spans = self.index.spans[index]
        start, end = int(spans[0, 0]), int(spans[max(parts)].sum())
        if len(self._fetched.get(index, b"")) < end - start:
            self._fetched |= self._parts([index], len(spans) - 1)
        there = self._fetched[index]
        payloads = [there[offset - start : offset - start + size] for offset, size in spans[list(parts)].tolist()]
        digests = dict(enumerate(read_digests(self.index.path(index), str(self.index.keys[index]))))
        label = str(self.index.labels[index]).encode()
        if not are_intact([*payloads, label], [digests.get(part) for part in (*parts, len(spans) - 1)]):
            raise differs(self.index.path(index))
        return payloads

    def _parts(self, indices: Sequence[int], images: int) -> dict[int, bytes]:
        """Return what lies from the beginning of each sample's original to the end of the last image."""
        spans = self.index.spans[list(indices)]
        names = [self.index.path(index).name for index in indices]
        parts = self._remote.read_parts(names, spans[:, 0, 0].tolist(), spans[:, images - 1].sum(1).tolist())
        return dict(zip(indices, parts, strict=True))
