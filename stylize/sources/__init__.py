"""Where pictures come from: a source is labelled images by split in one fixed order, nothing read before its turn."""

import hashlib
import zipfile
from array import array
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

from stylize.console import InputError
from stylize.files import replacing
from stylize.shards.decode import PictureError
from stylize.shards.manifest import SPLITS


class ListedImage(Protocol):
    """An image that has a name in its source and can be read."""

    @property
    def name(self) -> str:
        """What the image is called in the source."""

    def read(self) -> bytes:
        """Return the image file's bytes; raise `PictureError` where it cannot be read."""


class Source:
    """Labelled images in a fixed order; an image is named by its split and its index in it.

    `splits` are those of `train`, `test` and `val` that have images; `ignored` counts files that are no pictures, by
    rule; `notes` are sentences about how the splits came about; `state` is what the fingerprint is taken of, say names
    and sizes.
    """

    def __init__(
        self,
        name: str,
        class_names: Iterable[str],
        images: Iterable[tuple[str, int, ListedImage]],
        state: object,
        ignored: Mapping[str, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.ignored: Mapping[str, int] = {rule: count for rule, count in sorted((ignored or {}).items()) if count}
        self.notes = notes
        self._images: dict[str, list[ListedImage]] = {split: [] for split in SPLITS}
        self._labels = {split: array("l") for split in SPLITS}
        for split, label, image in images:
            self._images[split].append(image)
            self._labels[split].append(label)
        self.splits = tuple(split for split in SPLITS if self._images[split])
        self._fingerprint = hashlib.sha256(state if isinstance(state, bytes) else repr(state).encode()).hexdigest()

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self._images[split])

    def label(self, split: str, index: int) -> int:
        """Return an image's label, an index into the class names."""
        return self._labels[split][index]

    def path(self, split: str, index: int) -> str:
        """Return what the image is called in the source."""
        return self._images[split][index].name

    def read(self, split: str, index: int) -> bytes:
        """Return an image file's bytes; raise `PictureError` where it cannot be read."""
        return self._images[split][index].read()

    def fingerprint(self) -> str:
        """Return a SHA-256 that changes when the source does; a sample records its own bytes' hash."""
        return self._fingerprint


_READ_AHEAD = 64  # images that wait in memory
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can say: equal inputs give equal bytes


def export_images(source: Source, out: Path) -> int:
    """Write `train/CLASS/INDEX.SUFFIX`, `test/…` and `val/…` into the zip `out` and return the number of images."""
    images = [(split, index) for split in source.splits for index in range(source.count(split))]
    with (
        replacing(out, "give another --out or make room") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ThreadPoolExecutor() as readers,
    ):
        for start in range(0, len(images), _READ_AHEAD):
            for name, data in readers.map(partial(_exported, source), images[start : start + _READ_AHEAD]):
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return len(images)


def _exported(source: Source, image: tuple[str, int]) -> tuple[str, bytes]:
    """Return the name in the archive of an image, given as split and index, and its file."""
    split, index = image
    path = Path(source.path(split, index))
    try:
        data = source.read(split, index)
    except PictureError as error:
        raise InputError(f"The image {path} {error}: mend or remove it.") from None
    return f"{split}/{source.class_names[source.label(split, index)]}/{index:08d}{path.suffix.lower()}", data
