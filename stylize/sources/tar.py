"""An existing WebDataset as a source: tars of samples from any maker; hostile tars are refused."""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from braceexpand import braceexpand

from stylize.console import InputError
from stylize.files import given_name
from stylize.shards.decode import PICTURE_SUFFIXES, PictureError
from stylize.shards.manifest import MANIFEST_NAME, SPLITS
from stylize.sources import Source
from stylize.sources.folder import check_bytes
from stylize.sources.splits import (
    HIDDEN,
    check_unknown_classes,
    complete_splits,
    ignore_rule,
    is_text_name,
    is_visible,
    listed,
    name_splits,
    number_labels,
    outside_splits,
    split_of,
)

LABEL_KEYS = ("label", "cls", "class")  # of a sample's JSON, where it has no `cls` member
MAX_METADATA = 10_000_000  # bytes of a label or a JSON


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar, what it is called in the data set, and the split that its folder or name means."""

    path: Path
    name: str
    split: str | None


@dataclass(frozen=True, slots=True)
class TarImage:
    """A labelled picture of a sample: its member's name in a tar, and where its bytes lie in that."""

    tar: Tar
    member: str
    offset: int
    size: int
    label: str | int

    @property
    def name(self) -> str:
        """The tar's name and the member's in it."""
        return f"{self.tar.name}/{self.member}"

    def read(self) -> bytes:
        """Return the picture's bytes; raise `PictureError` where it cannot be read or is too large."""
        check_bytes(self.size)
        try:
            with open(self.tar.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise PictureError(f"cannot be read: {error.strerror or error}") from None


def open_tars(data: str, seed: int, test_fraction: float) -> Source:
    """Open a folder of tars, or those that a path with braces or wildcards names.

    A sample's picture is its first member with a picture's suffix, so originals of this project's shards and not their
    copies; its label is `cls`, or `label`, `cls` or `class` in its `json`. Raises `InputError` for hostile tars,
    samples without a picture or label, and where folders or names could mean more than one split.
    """
    ignored: Counter[str] = Counter()
    root, paths = list_tars(data, ignored)
    tars = _named(data, root, paths)
    images = [image for tar in tars for image in tar_images(tar, ignored)]
    if not images:
        raise InputError(f"{data} has no sample with a picture and a label: give another data set.")
    class_names, labels = number_labels(data, _class_names(root), {image.label for image in images})
    tops = {_top(image) for image in images} if all(tar.split is None for tar in tars) else set()
    # The folders in tars tell the split where all images lie in such folders.
    named = name_splits(data, tops) if len(tops) > 1 and all(map(split_of, tops)) else {}
    inside = {folder: split for split, folder in named.items()}
    places = [(image.tar.split or inside.get(_top(image)), str(image.label)) for image in images]
    if any(isinstance(image.label, str) for image in images):
        check_unknown_classes(data, ((split or "train", name) for split, name in places))
    splits, notes = complete_splits(data, places, [image.name for image in images], test_fraction, seed)
    entries = list(zip(splits, (labels[image.label] for image in images), images, strict=True))
    entries.sort(key=lambda entry: SPLITS.index(entry[0]))
    state = [(split, image.tar.name, image.member, image.offset, image.size, label) for split, label, image in entries]
    name = given_name(Path(data) if Path(data).is_dir() else root)
    return Source(name, class_names, entries, state, ignored, notes)


def _top(image: TarImage) -> str:
    return image.member.removeprefix("./").partition("/")[0]


def _class_names(folder: Path) -> list[str]:
    """Return the class names of this project's manifest, where there is one beside the tars."""
    try:
        names = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["spec"]["class_names"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def is_webdataset(data: str) -> bool:
    """Return whether a data set's name means tars: a folder with tars in it, or a path that ends in .tar."""
    return data.endswith(".tar") or (data != "" and Path(data).is_dir() and bool(_tars_in(Path(data))[1]))


def _tars_in(folder: Path) -> tuple[Path, list[Path]]:
    """Return the folder that has tars, or folders of tars of which some name splits, and the tars.

    It is the one given, or one inside folders that hold nothing else; none are found where split folders hold folders,
    as those of classes.
    """
    tars = sorted(folder.glob("*.tar"))
    if any(is_visible(tar.name) for tar in tars):
        return folder, tars
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and is_visible(path.name)]
    splits = [path for path in inside if split_of(path.name)]
    if len(inside) == 1 and not splits:
        return _tars_in(inside[0])
    if not splits or any(path.is_dir() and is_visible(path.name) for split in splits for path in split.iterdir()):
        return folder, []
    return folder, [tar for path in inside for tar in sorted(path.glob("*.tar"))]


def list_tars(data: str, ignored: Counter[str]) -> tuple[Path, list[Path]]:
    """Return the tars of a folder, or those that a path with braces or wildcards names, and the folder around them all.

    Hidden ones, as macOS leaves beside others, are counted in `ignored`. Raises `InputError` where there are none, or
    one is missing or named twice.
    """
    root, found = _tars_in(Path(data)) if Path(data).is_dir() else (None, [])
    for path in map(Path, braceexpand(data)) if root is None else ():
        first = next((place for place, part in enumerate(path.parts) if re.search(r"[*?\[]", part)), None)
        pattern = str(Path(*path.parts[first:]))
        found += [path] if first is None else sorted(Path(*path.parts[:first]).glob(pattern))
    tars = [path for path in found if is_visible(path.name)]
    ignored[HIDDEN] += len(found) - len(tars)
    missing = [tar for tar in tars if not tar.is_file()]
    if missing or not tars:
        raise InputError(f"There is no tar {missing[0] if missing else data}: give a folder of tars, or their paths.")
    if repeated := [path for path, times in Counter(tars).items() if times > 1]:
        raise InputError(f"{data} names {repeated[0]} twice: name every tar once.")
    return root or Path(os.path.commonpath([path.parent.absolute() for path in tars])), tars


def _named(data: str, root: Path, paths: Sequence[Path]) -> list[Tar]:
    """Return tars with their splits: the folders below `root` that name splits decide, else a word of a tar's name."""
    inside = [path.absolute().relative_to(root.absolute()) for path in paths]
    unique = len({path.name for path in inside}) == len(inside)
    folders = name_splits(data, {path.parts[0] for path in inside if len(path.parts) > 1})
    tars = []
    for path, own in zip(paths, inside, strict=True):
        split = split_of(own.parts[0]) if folders else _split_word(own.stem)
        if folders and split is None:
            raise outside_splits(data, listed(folders.values()), own.parts[0])
        if folders and _split_word(own.stem) not in (None, split):
            raise InputError(f"{data}: {own} names two splits: move or rename it.")
        tars.append(Tar(path, own.name if unique else own.as_posix(), split))
    return tars


def _split_word(name: str) -> str | None:
    """Return the split that a word of a name means."""
    return next((split for word in re.split(r"[\W_\d]+", name) if (split := split_of(word))), None)


def tar_images(tar: Tar, ignored: Counter[str]) -> Iterator[TarImage]:
    """Yield a tar's labelled pictures; refuse one with members that no honest data set has, or with a key twice.

    Hidden members, and texts such as README that are no sample, are counted in `ignored` by rule.
    """
    seen: set[str] = set()
    try:
        with tarfile.open(tar.path, "r:") as archive:
            members = _regular(tar.path, archive, ignored)
            for key, group in groupby(members, key=lambda member: _key_and_suffix(member.name)[0]):
                if key in seen:
                    raise InputError(f"{tar.path} holds the key {key!r} twice: its samples cannot be told apart.")
                seen.add(key)
                parts = {_key_and_suffix(member.name)[1]: member for member in group}
                picture = next((parts[name] for name in parts if f".{name.split('.')[-1]}" in PICTURE_SUFFIXES), None)
                if picture is None:
                    raise InputError(f"{tar.path}: sample {key} has no picture: give a data set of pictures.")
                label = _label(tar.path, key, archive, parts)
                yield TarImage(tar, picture.name, picture.offset_data, picture.size, label)
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"The tar {tar.path} cannot be read ({error}): fetch it again, uncompressed.") from None


def _regular(path: Path, archive: tarfile.TarFile, ignored: Counter[str]) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        parts = PurePosixPath(member.name).parts
        leads_out = member.name.startswith("/") or ".." in parts
        if member.isdir() and not leads_out:
            continue
        plain = member.isreg() and not member.issparse() and member.size >= 0 and not leads_out
        rule = ignore_rule("/".join(parts))
        if plain and rule and (rule == HIDDEN or is_text_name(parts[-1])):
            ignored[rule] += 1
        elif plain and member.name.isprintable():
            yield member
        else:
            raise InputError(f"{path} holds the foreign member {member.name!r}: do not use this tar.")


def _key_and_suffix(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


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
