"""Where images come from: one small interface, one fixed order, nothing read before its turn."""

import hashlib
import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from PIL import Image

from stylize.console import InputError
from stylize.files import temporary_path
from stylize.shards.decode import PictureError
from stylize.sources.folder import ListedSource, exists, open_class_folders
from stylize.sources.shapes import CLASS_NAMES, draw_shape
from stylize.sources.splits import check_fraction
from stylize.sources.tar import is_webdataset, list_tars, open_tars

PREFIX = "imagenet100:"
CLASSES = 100  # the first in the order of synsets, as in the paper's code


def open_imagenet100(data: str, seed: int, test_fraction: float) -> ListedSource:
    """Open `imagenet100:FOLDER` or `imagenet100:FOLDER:LIST`; the list names a class folder a line.

    Raises `InputError` where the folder has fewer classes, the list cannot be read or names a class that is not there,
    and as `open_class_folders`.
    """
    folder, _, listed = data.removeprefix(PREFIX).partition(":")
    if not folder:
        raise InputError(f"{data!r} names no folder: give imagenet100:FOLDER, or imagenet100:FOLDER:LIST.")
    choose = partial(_listed, folder, Path(listed)) if listed else partial(_first, folder)
    return open_class_folders(Path(folder), seed, test_fraction, choose)


def _first(folder: str, names: list[str]) -> list[str]:
    if len(names) < CLASSES:
        raise InputError(f"{folder} has {len(names)} classes, not {CLASSES} or more: give a list of classes after it.")
    return names[:CLASSES]


def _listed(folder: str, path: Path, names: list[str]) -> list[str]:
    try:
        words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"The list of classes {path} cannot be read ({error}): give a text file.") from None
    missing = [word for word in words if word not in names]
    if missing or not words:
        found = f"{path} names {missing[0]!r}, a class" if missing else f"{path} names no class"
        raise InputError(f"{found} that {folder} does not have: mend the list.")
    return words


SHAPES_COUNTS = {"train": 4000, "test": 1000}
SHAPES_SIDE = 64
DOWNLOADS = Path("data/downloads")


class Source(Protocol):
    """Labelled images in a fixed order; an image is named by its split and its index in it.

    `splits` are those of `train`, `test` and `val` that have images; `ignored` counts files that are no pictures, by
    rule; `notes` are sentences about how the splits came about.
    """

    name: str
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    ignored: Mapping[str, int]
    notes: tuple[str, ...]

    def count(self, split: str) -> int:
        """Return the number of images of a split."""

    def label(self, split: str, index: int) -> int:
        """Return an image's label, an index into the class names."""

    def path(self, split: str, index: int) -> str:
        """Return what the image is called in the source."""

    def read(self, split: str, index: int) -> bytes:
        """Return an image file's bytes; raise `PictureError` where it cannot be read."""

    def fingerprint(self) -> str:
        """Return a SHA-256 that changes when the source does."""


def open_source(data: str, *, seed: int = 0, test_fraction: float = 0.1) -> Source:
    """Open `shapes`, `cifar10`, `cifar100`, `imagenet100:FOLDER`, a folder or zip of class folders, or a WebDataset.

    In a folder without a test split a fraction of every class's images is held out, by hash and seed; 0 for none.
    Raises `InputError` where the source does not exist, is empty, or has classes without images, or for a fraction
    beyond [0, 1).
    """
    if data == "shapes":
        return ShapesSource()
    if data in ("cifar10", "cifar100"):
        return CifarSource(data)
    check_fraction(test_fraction)
    if data.startswith(PREFIX):
        return open_imagenet100(data, seed, test_fraction)
    if is_webdataset(data):
        return open_tars(data, seed, test_fraction)
    check_source_exists(data)
    return open_class_folders(Path(data), seed, test_fraction)


def check_source_exists(data: str) -> None:
    """Raise `InputError` for what is neither the name of an embedded data set nor a path that exists."""
    if data in ("shapes", "cifar10", "cifar100"):
        return
    if is_webdataset(data):
        list_tars(data, Counter())
        return
    path = data.removeprefix(PREFIX).partition(":")[0] if data.startswith(PREFIX) else data
    if not (path and exists(Path(path))):
        raise InputError(f"There is no data set {data!r}: give shapes, cifar10, cifar100, or a folder, zip or tars.")


class ShapesSource:
    """The embedded data set, drawn on demand as PNG files of 64 × 64 pixels."""

    name = "shapes"
    class_names: tuple[str, ...] = CLASS_NAMES
    splits: tuple[str, ...] = tuple(SHAPES_COUNTS)
    ignored: Mapping[str, int] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return SHAPES_COUNTS[split]

    def label(self, split: str, index: int) -> int:
        """Return the label, balanced over indices."""
        return index % len(CLASS_NAMES)

    def path(self, split: str, index: int) -> str:
        """Return a name in the layout of class folders."""
        return f"{split}/{CLASS_NAMES[self.label(split, index)]}/{index:05d}.png"

    def read(self, split: str, index: int) -> bytes:
        """Draw an image."""
        return encode_png(draw_shape(index, size=SHAPES_SIDE, split=split).picture)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the first images: it changes when the drawing does."""
        return hashlib.sha256(b"".join(self.read("train", index) for index in range(10))).hexdigest()


class CifarSource:
    """CIFAR-10 or CIFAR-100 in torchvision's layout, downloaded to `data/downloads` when it is not there."""

    splits: tuple[str, ...] = ("train", "test")
    ignored: Mapping[str, int] = MappingProxyType({})
    notes: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        from torchvision.datasets import CIFAR10, CIFAR100  # takes a second, which other sources need not spend

        self.name = name
        kind = CIFAR10 if name == "cifar10" else CIFAR100
        try:
            self._splits = {split: kind(DOWNLOADS, train=split == "train", download=True) for split in self.splits}
        except (OSError, RuntimeError) as error:
            message = (
                f"{name} is neither in {DOWNLOADS} nor can it be downloaded ({error}): put it there in torchvision's"
            )
            raise InputError(f"{message} layout, or give a folder or zip of class folders.") from None
        self.class_names = tuple(self._splits["train"].classes)

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self._splits[split])

    def label(self, split: str, index: int) -> int:
        """Return an image's label."""
        return int(self._splits[split].targets[index])

    def path(self, split: str, index: int) -> str:
        """Return a name in the layout of class folders."""
        return f"{split}/{self.class_names[self.label(split, index)]}/{index:05d}.png"

    def read(self, split: str, index: int) -> bytes:
        """Return the image as PNG."""
        return encode_png(Image.fromarray(self._splits[split].data[index]))

    def fingerprint(self) -> str:
        """Return the SHA-256 of torchvision's own checksums of the files."""
        lists = self._splits["train"]
        return hashlib.sha256(repr((lists.train_list, lists.test_list)).encode()).hexdigest()


def encode_png(picture: Image.Image) -> bytes:
    """Encode without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can say: equal inputs give equal bytes


def export_images(source: Source, out: Path) -> int:
    """Write `train/CLASS/INDEX.SUFFIX`, `test/…` and `val/…` into the zip `out` and return the number of images."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return _write_zip(source, out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}): give another --out or make room.") from None


def _write_zip(source: Source, out: Path) -> int:
    temporary = temporary_path(out)
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            images = ((split, index) for split in source.splits for index in range(source.count(split)))
            count = sum(_write_image(archive, source, split, index) for split, index in images)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_image(archive: zipfile.ZipFile, source: Source, split: str, index: int) -> int:
    path = Path(source.path(split, index))
    name = f"{split}/{source.class_names[source.label(split, index)]}/{index:08d}{path.suffix.lower()}"
    try:
        archive.writestr(zipfile.ZipInfo(name, _EPOCH), source.read(split, index))
    except PictureError as error:
        raise InputError(f"The image {path} {error}: mend or remove it.") from None
    return 1
