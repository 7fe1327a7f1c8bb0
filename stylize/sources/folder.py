"""Class folders as a source of labelled images, in a folder or a zip."""

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, takewhile
from pathlib import Path, PurePosixPath
from posixpath import splitext

import numpy as np

from stylize.console import InputError
from stylize.files import given_name
from stylize.shards.decode import PICTURE_SUFFIXES, PictureError, is_picture
from stylize.sources import Source
from stylize.sources.splits import Layout, complete_splits, ignore_rule, is_visible, look_alikes, read_layout

MAX_BYTES = 600_000_000  # more than the pixels of any accepted picture take


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a folder or zip: `name` is its path inside `root`, with forward slashes.

    `member` is what a zip calls it, where that differs, and `row` which of its members it is; `problem` says why it
    cannot be read, where that is known.
    """

    root: Path
    name: str
    member: str = ""
    problem: str = ""
    row: int = -1

    @property
    def stem(self) -> str:
        """File name without folder and suffix."""
        return PurePosixPath(self.name).stem

    def read(self) -> bytes:
        """Return the file's bytes; raise `PictureError` where it cannot be read or is too large."""
        if self.problem:
            raise PictureError(self.problem)
        try:
            if self.root.is_dir():
                status = (self.root / self.name).stat()
                if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device be read for ever
                    raise PictureError("cannot be read: it is not a regular file")
                check_bytes(status.st_size)
                return (self.root / self.name).read_bytes()
            return open_zip(self.root).read(self.row, self.member or self.name)
        except OSError as error:  # without the path, which differs between machines
            raise PictureError(f"cannot be read: {error.strerror or error}") from None
        except (EOFError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
            raise PictureError(f"cannot be read: {error}") from None


def check_bytes(size: int) -> None:
    """Raise `PictureError` for a file larger than the pixels of any accepted picture."""
    if size > MAX_BYTES:
        raise PictureError(f"has {size} bytes, more than the limit of {MAX_BYTES}")


# What reading a member of a zip needs: 36 bytes, where Python's own object takes 600.
_MEMBER = np.dtype([("header_offset", "u8"), ("compress_size", "u8"), ("file_size", "u8"), ("CRC", "u4"),
                    ("compress_type", "u4"), ("flag_bits", "u4")])  # fmt: skip


class OpenZip:
    """A zip whose list of members, a row of `members` each, is small in memory; raises as `zipfile.ZipFile`."""

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        infos = self.archive.filelist
        rows = (tuple(getattr(info, name) for name in _MEMBER.names or ()) for info in infos)
        self.members = np.fromiter(rows, _MEMBER, len(infos))
        infos.clear()
        self.archive.NameToInfo.clear()

    def read(self, row: int, name: str) -> bytes:
        """Return a member's bytes; raises as `ZipFile.read`, also where the member has another name."""
        if row >= len(self.members):
            raise zipfile.BadZipFile(f"{name!r} is no longer in the zip")
        info = zipfile.ZipInfo(name)
        for field_name, value in zip(_MEMBER.names or (), self.members[row].tolist(), strict=True):
            setattr(info, field_name, value)
        check_bytes(info.file_size)
        return self.archive.read(info)


def open_zip(path: Path) -> OpenZip:
    """Open a zip, once for a process and a state of the file; raises as `zipfile.ZipFile`.

    A handle shared over a fork would mix up its position, and reading the directory of a large zip takes seconds.
    """
    status = path.stat()
    return _opened_zip(path, os.getpid(), (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=8)
def _opened_zip(path: Path, process: int, state: tuple[int, int, int]) -> OpenZip:
    return OpenZip(path)


def exists(path: Path) -> bool:
    """Return whether a path is there; raise `InputError` where that cannot be told."""
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None


def check_name(name: str) -> None:
    """Raise `InputError` for a name that is not UTF-8, which no manifest could hold."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of another encoding, which Python keeps as lone surrogates
        raise InputError(f"The file name {name!r} is not UTF-8: rename it.") from None


_LOOP = "is a link to a folder around it"
_LINK_IN_ZIP = "is a link, which a zip cannot follow"
_TWICE = "stands twice in the zip, and this is the earlier one"
_UTF8_NAME = 0x800  # flag of a zip's member


@dataclass
class Listing:
    """Files that may be pictures, sorted by name; visible folders; and how many files each rule ignores."""

    files: list[PictureFile] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    ignored: Counter[str] = field(default_factory=Counter)


def list_pictures(root: Path) -> list[PictureFile]:
    """List the files below a folder, in a zip, or the one file given, that no rule ignores, sorted by name.

    Raises `InputError` where there are none, and as `list_files`.
    """
    if exists(root) and not root.is_dir() and not is_zip(root):
        check_name(root.name)
        return [PictureFile(root.parent, root.name)]
    files = list_files(root).files
    if not files:
        raise InputError(f"{root} holds no pictures: give another folder, zip or file.")
    return files


def list_files(root: Path) -> Listing:
    """List a folder or zip; links are followed, and one that leads into a loop becomes a file with that problem.

    Raises `InputError` where the root does not exist, a folder cannot be read (its pictures would be lost silently), a
    name is not UTF-8, or a zip is damaged or holds paths that lead out of it.
    """
    if not exists(root):
        raise InputError(f"{root} does not exist: give a folder, a zip or a picture file.")
    listing = Listing()
    for file in _walk(root, listing.folders) if root.is_dir() else _members(root, listing.folders):
        if rule := ignore_rule(file.name):
            listing.ignored[rule] += 1
        else:
            check_name(file.name)
            listing.files.append(file)
    listing.files.sort(key=lambda file: file.name)
    return listing


def is_zip(root: Path) -> bool:
    """Return whether a file is a zip; raise `InputError` for one that is called so and is not whole."""
    if zipfile.is_zipfile(root):
        return True
    if root.suffix.lower() == ".zip":
        raise InputError(f"{root} is not a whole zip: fetch or make it again.")
    return False


def _walk(root: Path, folders: set[str]) -> Iterator[PictureFile]:
    """Yield the files below a folder, and hidden folders and links into loops as if they were files."""
    waiting: list[tuple[str, tuple[os.stat_result, ...]]] = [("", ())]  # a folder, and those that it lies in
    while waiting:
        folder, around = waiting.pop()
        try:
            with os.scandir(root / folder) as scanned:
                around, entries = (*around, (root / folder).stat()), list(scanned)
        except OSError as error:
            reason = f"cannot be read ({error.strerror}): make it readable, or remove it"
            raise InputError(f"The folder {root / folder} {reason}.") from None
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_folder(entry) or not is_visible(entry.name):
                yield PictureFile(root, name)
            elif entry.is_symlink() and any(os.path.samestat(entry.stat(), outer) for outer in around):
                yield PictureFile(root, name, problem=_LOOP)
            else:
                folders.add(name)
                waiting.append((name, around))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: reading it will say why
        return False


def _members(root: Path, folders: set[str]) -> Iterator[PictureFile]:
    """Yield a zip's files; of two with one name the last counts, as when it is unpacked; the earlier is a problem."""
    try:
        with zipfile.ZipFile(root) as archive:
            infos = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"The zip {root} cannot be read ({error}): fetch or make it again.") from None
    windows = not any("/" in info.filename for info in infos)  # its separators, which no zip should have
    seen: set[str] = set()
    for row, info in reversed(list(enumerate(infos))):
        stored = _stored_name(info)
        name = _plain_name(root, stored.replace("\\", "/") if windows else stored)
        is_folder = stored.endswith(("/", "\\") if windows else "/")
        parts = name.split("/") if is_folder else name.split("/")[:-1]
        folders.update(accumulate(takewhile(is_visible, parts), "{}/{}".format))
        if is_folder or not name:
            continue
        problem = _TWICE if name in seen else _LINK_IN_ZIP if stat.S_ISLNK(info.external_attr >> 16) else ""
        seen.add(name)
        yield PictureFile(root, name, "" if info.orig_filename == name else info.orig_filename, problem, row)


def _stored_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; without the flag for UTF-8 it should be code page 437, but often is UTF-8."""
    if info.flag_bits & _UTF8_NAME or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename


def _plain_name(root: Path, name: str) -> str:
    """Return a member's path without `.` and empty parts; refuse one that leads out of the zip."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or (parts[0][1:] == ":" and parts[0].isascii()):
        raise InputError(f"{root} holds {name!r}, a path that leads out of it: make the zip again with relative paths.")
    return "/".join(part for part in parts if part not in ("", "."))


Choose = Callable[[list[str]], Iterable[str]]
OUTSIDE = "outside the class folders"


def open_class_folders(root: Path, seed: int, test_fraction: float, choose: Choose | None = None) -> Source:
    """Open a folder or zip of class folders, optionally below split folders; classes are sorted by name.

    Pictures that all lie in the folder itself are of one class, called as the folder. `choose` returns, of all classes,
    those to keep. Raises `InputError` where the folders could mean more than one thing, or a class would be lost.
    """
    _check_root(root)
    check_name(given_name(root))
    listing = list_files(root)
    files = _inside_classes(root, listing)
    if not files:
        tars = f", but tars: give their paths, as '{root}/**/*.tar'" if listing.ignored[".tar"] else ""
        raise InputError(f"{root} holds no pictures{tars or ': give another folder or zip'}.")
    layout = _layout(root, files)
    _check_class_folders(root, files, listing.folders, layout)
    if choose:
        kept = set(choose(sorted({name for _, name in layout.places})))
        files = [file for file, (_, name) in zip(files, layout.places, strict=True) if name in kept]
        layout = replace(layout, places=[place for place in layout.places if place[1] in kept])
    splits, notes = complete_splits(str(root), layout.places, [file.name for file in files], test_fraction, seed)
    classes = [name for _, name in layout.places]
    labels = {name: label for label, name in enumerate(sorted(set(classes)))}
    if len(labels) < 2 and not _is_flat(files):
        held = ", ".join(labels) or "none"
        raise InputError(f"{root} has fewer than two class folders with pictures ({held}): give one per class.")
    for one, other in look_alikes(labels):
        raise InputError(f"{root}: two classes are called {one!r} in different Unicode forms: rename {other!r}.")
    images = ((split, labels[name], file) for split, name, file in zip(splits, classes, files, strict=True))
    return Source(given_name(root), labels, images, _sizes(root, files), listing.ignored, notes)


def _check_root(root: Path) -> None:
    """Refuse a file that is no zip, with what to do about it."""
    if not exists(root) or root.is_dir() or is_zip(root):
        return
    try:
        is_tar = tarfile.is_tarfile(root)
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror or error}): check its permissions.") from None
    except (EOFError, lzma.LZMAError, zlib.error):  # a compressed file that is cut or damaged
        is_tar = False
    kind = "a tar: unpack it" if is_tar else "a single file and no zip"
    raise InputError(f"{root} is {kind}: give a folder or zip of class folders.")


def _inside_classes(root: Path, listing: Listing) -> list[PictureFile]:
    """Return the files without those that neither are pictures by name or content nor lie with pictures: these count.

    Raises `InputError` for one of them that cannot be read, say a link to nothing in place of a class folder.
    """
    pictures = [file for file in listing.files if splitext(file.name)[1].lower() in PICTURE_SUFFIXES]
    if len(pictures) in (0, len(listing.files)):
        return listing.files
    depth = _layout(root, pictures).depth + 1
    classes = {tuple(file.name.split("/")[:depth]) for file in pictures}
    files = []
    for file in listing.files:
        try:
            inside = tuple(file.name.split("/")[:depth]) in classes or is_picture(file.read())
        except PictureError as error:
            raise InputError(f"{file.root}: {file.name} {error}: mend or remove it.") from None
        if inside:
            files.append(file)
        else:
            listing.ignored[OUTSIDE] += 1
    return files


def _layout(root: Path, files: Sequence[PictureFile]) -> Layout:
    """Return the layout of class folders, or that of one class where no picture lies in a folder."""
    if _is_flat(files):
        return Layout([(None, given_name(root))] * len(files), 0)
    return read_layout(str(root), [file.name for file in files])


def _is_flat(files: Sequence[PictureFile]) -> bool:
    return not any("/" in file.name for file in files)


def _check_class_folders(root: Path, files: Sequence[PictureFile], folders: set[str], layout: Layout) -> None:
    """Refuse a folder without pictures among the class folders: its class would be lost silently."""
    classes = {"/".join(file.name.split("/")[: layout.depth + 1]) for file in files}
    around = {name.rpartition("/")[0] for name in classes}
    for name in sorted(folders - classes):
        if name.rpartition("/")[0] in around:
            raise InputError(f"{root}: the folder {name} has no pictures: fill or remove it.")


def _sizes(root: Path, files: Sequence[PictureFile]) -> list[tuple[str, int, int]]:
    if root.is_dir():
        return [(file.name, _size(file), 0) for file in files]
    members = open_zip(root).members[[file.row for file in files]]
    sizes = zip(members["file_size"].tolist(), members["CRC"].tolist(), strict=True)
    return [(file.name, size, crc) for file, (size, crc) in zip(files, sizes, strict=True)]


def _size(file: PictureFile) -> int:
    """Return a file's size, −1 for one that cannot be looked at: reading it will say why."""
    try:
        return -1 if file.problem else (file.root / file.name).stat().st_size
    except OSError:
        return -1
