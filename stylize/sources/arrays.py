"""Sources of arrays of pixels: the embedded data set `shapes`, and CIFAR as torchvision stores it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from stylize.console import InputError
from stylize.sources.shapes import CLASS_NAMES, draw_shape
from stylize.sources.source import Source, encode_png

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
