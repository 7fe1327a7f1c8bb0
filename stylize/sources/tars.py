"""An existing WebDataset as a source: tars of samples, with or without a manifest of this project beside them."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from braceexpand import braceexpand

from stylize.errors import InputError
from stylize.sources.held_out import hold_out
from stylize.sources.layout import SPLITS, split_of
from stylize.sources.picture_files import MAX_BYTES
from stylize.sources.pictures import PictureError
from stylize.sources.tar_samples import TarImage, tar_images

_MANIFEST = "manifest.json"


class TarSource:
    """The pictures of a WebDataset's samples; a label is `cls`, or `label`, `cls` or `class` in the sample's `json`.

    A sample's picture is its first member with a picture's suffix, so originals of this project's shards and not their
    copies. A tar's split is a word of its name; where none says test, a fraction of the samples is held out.
    """

    left_out: Mapping[str, int] = MappingProxyType({})

    def __init__(self, data: str, seed: int, test_fraction: float) -> None:
        tars = list_tars(data)
        self.name = Path(data).resolve().name if Path(data).is_dir() else tars[0].resolve().parent.name
        images = [(_split(tar), image) for tar in tars for image in tar_images(tar)]
        names = _class_names(tars[0].parent)
        if not images:
            raise InputError(f"{data} has no sample with a picture and a label: give another data set.")
        found = sorted({image.label for _, image in images}, key=lambda label: (isinstance(label, str), label))
        if names and not all(isinstance(label, int) and label < len(names) for label in found):
            raise InputError(f"{data} has labels that its {_MANIFEST} has no class for: run `stylize verify` on it.")
        self.class_names = tuple(names or map(str, found))
        labels = {label: label if names else number for number, label in enumerate(found)}
        splits, self.notes = _with_test_split(data, images, seed, test_fraction)
        self._entries: dict[str, list[tuple[TarImage, int]]] = {split: [] for split in SPLITS}
        for split, (_, image) in zip(splits, images, strict=True):
            self._entries[split].append((image, int(labels[image.label])))
        self.splits = tuple(split for split in SPLITS if self._entries[split])

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self._entries[split])

    def label(self, split: str, index: int) -> int:
        """Return an image's label."""
        return self._entries[split][index][1]

    def path(self, split: str, index: int) -> str:
        """Return the tar's name and the member's in it."""
        image, _ = self._entries[split][index]
        return f"{image.tar.name}/{image.name}"

    def read(self, split: str, index: int) -> bytes:
        """Return a picture's bytes; raise `PictureError` where it cannot be read or is too large."""
        image, _ = self._entries[split][index]
        if image.size > MAX_BYTES:
            raise PictureError(f"has {image.size} bytes, more than the limit of {MAX_BYTES}")
        try:
            with open(image.tar, "rb") as file:
                file.seek(image.offset)
                return file.read(image.size)
        except OSError as error:
            raise PictureError(f"cannot be read: {error.strerror or error}") from None

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, places and sizes; a sample records its own bytes' hash."""
        entries = [(split, image.tar.name, image.name, image.offset, image.size, label)
                   for split in self.splits for image, label in self._entries[split]]  # fmt: skip
        return hashlib.sha256(repr(entries).encode()).hexdigest()


def is_webdataset(data: str) -> bool:
    """Return whether a data set's name means tars: a folder with tars in it, or a path that ends in .tar."""
    path = Path(data)
    return data.endswith(".tar") or (path.is_dir() and next(path.glob("*.tar"), None) is not None)


def list_tars(data: str) -> list[Path]:
    """Return the tars of a folder, or those that a path with braces or wildcards names, in their order.

    Raises `InputError` where there are none, two have one name, or one is missing.
    """
    if Path(data).is_dir():
        return sorted(Path(data).glob("*.tar"))
    tars = []
    for name in braceexpand(data):
        pattern = Path(name)
        tars += sorted(pattern.parent.glob(pattern.name)) if re.search(r"[*?\[]", pattern.name) else [pattern]
    missing = [tar for tar in tars if not tar.is_file()]
    if missing or not tars:
        raise InputError(f"There is no tar {missing[0] if missing else data}: give a folder of tars, or their paths.")
    if len({tar.name for tar in tars}) < len(tars):
        raise InputError(f"{data} names two tars that are called the same: rename one.")
    return tars


def _split(tar: Path) -> str | None:
    """Return the split that a word of a tar's name means."""
    return next((split for word in re.split(r"[\W_\d]+", tar.stem) if (split := split_of(word))), None)


def _class_names(folder: Path) -> list[str]:
    """Return the class names of this project's manifest, where there is one beside the tars."""
    try:
        names = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["spec"]["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _with_test_split(
    data: str, images: list[tuple[str | None, TarImage]], seed: int, test_fraction: float
) -> tuple[list[str], tuple[str, ...]]:
    named = {split for split, _ in images}
    if "test" in named:
        return [split or "train" for split, _ in images], ()
    if "val" in named:
        return ["test" if split == "val" else "train" for split, _ in images], ("val is the test split",)
    places = [(str(image.label), f"{image.tar.name}/{image.name}") for _, image in images]
    chosen = hold_out(data, places, test_fraction, seed)
    note = f"{len(chosen)} of {len(images)} images are held out for testing"
    return ["test" if name in chosen else "train" for _, name in places], (note,)
