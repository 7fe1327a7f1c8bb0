"""Sources of arrays of pixels: the embedded data set `shapes`, CIFAR as torchvision stores it, and `.npz` files."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stylize.console import InputError
from stylize.files import given_name
from stylize.shards.decode import encode_png
from stylize.sources import Source
from stylize.sources.shapes import CLASS_NAMES, draw_shape
from stylize.sources.splits import complete_splits, listed, number_labels

SHAPES_COUNTS = {"train": 4000, "test": 1000}
SHAPES_SIDE = 64
DOWNLOADS = Path("data/downloads")


class Pictures(Protocol):
    """Pictures by index, (H, W, 3) of uint8 each: an array (N, H, W, 3), or drawn on demand."""

    def __getitem__(self, index: int, /) -> Any:
        """Return a picture's pixels."""


@dataclass(frozen=True, slots=True)
class ArrayImage:
    """A picture of an array, read as PNG; `folder` is where it would lie in class folders."""

    pictures: Pictures
    index: int
    folder: str

    @property
    def name(self) -> str:
        """A name in the layout of class folders."""
        return f"{self.folder}/{self.index:05d}.png"

    def read(self) -> bytes:
        """Return the picture as PNG."""
        return encode_png(Image.fromarray(self.pictures[self.index]))


Labelled = tuple[str, int, ArrayImage]


def array_images(
    split: str, pictures: Pictures, labels: Sequence[int], class_names: Sequence[str]
) -> Iterator[Labelled]:
    """Yield (split, label, image) of pictures in their order."""
    folders = [f"{split}/{name}" for name in class_names]
    return ((split, label, ArrayImage(pictures, index, folders[label])) for index, label in enumerate(labels))


@dataclass(frozen=True)
class _Drawn:
    split: str

    def __getitem__(self, index: int) -> Any:
        return np.asarray(draw_shape(index, size=SHAPES_SIDE, split=self.split).picture)


class ShapesSource(Source):
    """The embedded data set, drawn on demand as PNG files of 64 × 64 pixels."""

    def __init__(self) -> None:
        images = [
            image
            for split, count in SHAPES_COUNTS.items()
            for image in array_images(split, _Drawn(split), [index % 10 for index in range(count)], CLASS_NAMES)
        ]
        first = b"".join(image.read() for _, _, image in images[:10])  # changes when the drawing does
        super().__init__("shapes", CLASS_NAMES, images, first)


def open_cifar(name: str) -> Source:
    """Open CIFAR-10 or CIFAR-100 in torchvision's layout, downloaded to `data/downloads` when it is not there.

    Raises `InputError` where that fails.
    """
    from torchvision.datasets import CIFAR10, CIFAR100  # takes a second, which other sources need not spend

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        train, test = (kind(DOWNLOADS, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name} is neither in {DOWNLOADS} nor can it be downloaded ({error}): put it there in torchvision's "
            "layout, or give a folder or zip of class folders."
        ) from None
    images = [
        image
        for split, held in (("train", train), ("test", test))
        for image in array_images(split, held.data, held.targets, train.classes)
    ]
    return Source(name, train.classes, images, (train.train_list, train.test_list))


IMAGES, LABELS, CLASSES = "image", "label", "class_names"


def open_npz(data: str, seed: int, test_fraction: float) -> Source:
    """Open `images.npz`: `image` (N, H, W, 3) of uint8, `label` (N,) of integers and, if it is there, `class_names`.

    Uncompressed pictures stay on disk until they are read. Raises `InputError` for a file that is damaged, holds
    pickled objects or lacks an array, and for arrays of other shapes or types.
    """
    path = Path(data)
    try:
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as arrays:
            if missing := {IMAGES, LABELS}.difference(arrays.files):
                found = listed(arrays.files)
                raise InputError(f"{data} has no array {min(missing)!r} (its arrays are {found or 'none'}): add it.")
            labels, names = arrays[LABELS], arrays[CLASSES] if CLASSES in arrays.files else np.array([], str)
            mapped = _mapped(path, archive.getinfo(f"{IMAGES}.npy"))
            pictures = arrays[IMAGES] if mapped is None else mapped
            state = [(info.filename, info.file_size, info.CRC) for info in archive.infolist()]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds pickled objects, which could run a program" if "pickle" in str(error) else error
        raise InputError(f"{data} cannot be read ({reason}): save plain arrays by numpy.savez.") from None
    _check_arrays(data, pictures, labels, names)
    class_names, numbers = number_labels(data, names.tolist(), set(labels.tolist()))
    classes = [numbers[label] for label in labels.tolist()]
    images = [ArrayImage(pictures, index, class_names[number]) for index, number in enumerate(classes)]
    places = [(None, image.folder) for image in images]
    splits, notes = complete_splits(data, places, [image.name for image in images], test_fraction, seed)
    return Source(given_name(path), class_names, zip(splits, classes, images, strict=True), state, notes=notes)


def _mapped(path: Path, member: zipfile.ZipInfo) -> NDArray[Any] | None:
    """Return an array that a zip stores uncompressed, mapped into memory; None for others."""
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with open(path, "rb") as file:
        file.seek(member.header_offset + 26)  # where a member's own header says how long its name and extra field are
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran_order, kind = np.lib.format.read_array_header_1_0(file)
        return None if fortran_order or kind.hasobject else np.memmap(path, kind, "r", file.tell(), shape)


def _check_arrays(data: str, pictures: NDArray[Any], labels: NDArray[Any], names: NDArray[Any]) -> None:
    wrong = None
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.size:
        wrong = f"{IMAGES} is {pictures.dtype} of shape {pictures.shape}: it must be uint8 of shape (N, H, W, 3)"
    elif labels.dtype.kind not in "iu" or labels.shape != pictures.shape[:1]:
        wrong = f"{LABELS} is {labels.dtype} of shape {labels.shape}: it must be integers of shape ({len(pictures)},)"
    elif labels.min() < 0:
        wrong = f"{LABELS} holds {labels.min()}: labels begin at 0"
    elif names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) < len(names):
        wrong = f"{CLASSES} is {names.dtype} of shape {names.shape}: it must be one text a class, each another one"
    if wrong:
        raise InputError(f"{data}: {wrong}.")
