"""An existing WebDataset as a source: tars of samples that anybody may have made; hostile tars are refused."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from braceexpand import braceexpand

from stylize.console import InputError
from stylize.shards.decode import PICTURE_SUFFIXES, PictureError
from stylize.sources.folder import MAX_BYTES
from stylize.sources.splits import SPLITS, hold_out, split_of

LABEL_KEYS = ("label", "cls", "class")  # of a sample's JSON, where it has no `cls` member
MAX_METADATA = 10_000_000  # bytes of a label or a JSON


@dataclass(frozen=True, slots=True)
class TarImage:
    """A labelled picture of a sample: its member's name in a tar, and where its bytes lie in that."""

    tar: Path
    name: str
    offset: int
    size: int
    label: str | int


def tar_images(tar: Path) -> Iterator[TarImage]:
    """Yield a tar's labelled pictures; refuse one with members that no honest data set has, or with a key twice."""
    seen: set[str] = set()
    try:
        with tarfile.open(tar, "r:") as archive:
            for key, members in groupby(_regular(tar, archive), key=lambda member: _key(member.name)):
                if key in seen:
                    raise InputError(f"{tar} holds the key {key!r} twice: its samples cannot be told apart.")
                seen.add(key)
                yield _image(tar, key, archive, {_suffix(member.name): member for member in members})
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"The tar {tar} cannot be read ({error}): fetch it again, uncompressed.") from None


def _regular(tar: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        parts = PurePosixPath(member.name).parts
        leads_out = member.name.startswith("/") or ".." in parts or not member.name.isprintable()
        if member.isdir() and not leads_out:
            continue
        if not member.isreg() or member.issparse() or member.size < 0 or leads_out:
            raise InputError(f"{tar} holds the foreign member {member.name!r}: do not use this tar.")
        yield member


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _image(tar: Path, key: str, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> TarImage:
    picture = next((m for suffix, m in members.items() if f".{suffix.rpartition('.')[2]}" in PICTURE_SUFFIXES), None)
    if picture is None:
        raise InputError(f"{tar}: sample {key} has no picture: give a data set of pictures.")
    return TarImage(tar, picture.name, picture.offset_data, picture.size, _label(tar, key, archive, members))


def _label(tar: Path, key: str, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> str | int:
    if "cls" in members:
        text = _read(archive, members["cls"]).decode("utf-8", "replace").strip()
        value: Any = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text
    else:
        metadata = json.loads(_read(archive, members["json"])) if "json" in members else {}
        held = metadata if isinstance(metadata, dict) else {}
        value = next((held[name] for name in LABEL_KEYS if name in held), None)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value in ("", None) or str(value)[0] == "-":
        wanted = ", ".join(LABEL_KEYS)
        raise InputError(f"{tar}: sample {key} has no label: it needs a member cls, or one of {wanted} in its json.")
    return value


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read(MAX_METADATA) if file else b""


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
