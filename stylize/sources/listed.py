"""A source whose images were listed beforehand: the files of a folder, or the members of tars."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Protocol

from stylize.shards.manifest import SPLITS


class ListedImage(Protocol):
    """An image that has a name in its source and can be read."""

    @property
    def name(self) -> str:
        """What the image is called in the source."""

    def read(self) -> bytes:
        """Return the image file's bytes; raise `PictureError` where it cannot be read."""


class ListedSource:
    """Images by split, as a `Source`; `state` is what the fingerprint is taken of, say names and sizes."""

    def __init__(
        self,
        name: str,
        class_names: Iterable[str],
        images: Iterable[tuple[str, int, ListedImage]],
        state: object,
        ignored: Mapping[str, int],
        notes: tuple[str, ...],
    ) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.ignored: Mapping[str, int] = {rule: count for rule, count in sorted(ignored.items()) if count}
        self.notes = notes
        self._images: dict[str, list[tuple[int, ListedImage]]] = {split: [] for split in SPLITS}
        for split, label, image in images:
            self._images[split].append((label, image))
        self.splits = tuple(split for split in SPLITS if self._images[split])
        self._fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self._images[split])

    def label(self, split: str, index: int) -> int:
        """Return an image's label."""
        return self._images[split][index][0]

    def path(self, split: str, index: int) -> str:
        """Return the path inside the folder, zip or tars."""
        return self._images[split][index][1].name

    def read(self, split: str, index: int) -> bytes:
        """Return an image file's bytes; raise `PictureError` where it cannot be read."""
        return self._images[split][index][1].read()

    def fingerprint(self) -> str:
        """Return a SHA-256 over names and sizes; a sample records its own bytes' hash."""
        return self._fingerprint
