"""List what lies in a folder or zip: pictures, folders, and files that are no pictures by rule. Nothing is decoded."""

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stylize.errors import InputError
from stylize.sources.left_out import is_visible, rule_that_leaves_out
from stylize.sources.picture_files import PictureFile, check_name, exists, open_zip

_LOOP = "is a link to a folder around it"
_LINK_IN_ZIP = "is a link, which a zip cannot follow"
_TWICE = "stands twice in the zip, and this is the earlier one"
_UTF8_NAME = 0x800  # flag of a zip's member


@dataclass
class Listing:
    """Files that may be pictures, sorted by name; visible folders; and how many files each rule left out."""

    files: list[PictureFile] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, file: PictureFile) -> None:
        """Take a file in, or count it under the rule that leaves it out."""
        if rule := rule_that_leaves_out(file.name):
            self.left_out[rule] += 1
        else:
            check_name(file.name)
            self.files.append(file)


def list_pictures(root: Path) -> list[PictureFile]:
    """List the files below a folder, in a zip, or the one file given, that no rule leaves out, sorted by name.

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
        listing.add(file)
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
        status, entries = _scan(root / folder)
        around = (*around, status)
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_folder(entry) or not is_visible(entry.name):
                yield PictureFile(root, name)
            elif entry.is_symlink() and any(os.path.samestat(entry.stat(), outer) for outer in around):
                yield PictureFile(root, name, problem=_LOOP)
            else:
                folders.add(name)
                waiting.append((name, around))


def _scan(path: Path) -> tuple[os.stat_result, list[os.DirEntry[str]]]:
    try:
        with os.scandir(path) as entries:
            return path.stat(), list(entries)
    except OSError as error:
        reason = f"cannot be read ({error.strerror}): make it readable, or remove it"
        raise InputError(f"The folder {path} {reason}.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: reading it will say why
        return False


def _members(root: Path, folders: set[str]) -> Iterator[PictureFile]:
    """Yield a zip's files; of two with one name the last counts, as when it is unpacked; the earlier is a problem."""
    try:
        infos = open_zip(root).infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"The zip {root} cannot be read ({error}): fetch or make it again.") from None
    windows = not any("/" in info.filename for info in infos)  # its separators, which no zip should have
    seen: set[str] = set()
    for info in reversed(infos):
        stored = _stored_name(info)
        name = _plain_name(root, stored.replace("\\", "/") if windows else stored)
        folders.update(_folders_of(name, is_folder := stored.endswith(("/", "\\") if windows else "/")))
        if is_folder or not name:
            continue
        problem = _TWICE if name in seen else _LINK_IN_ZIP if stat.S_ISLNK(info.external_attr >> 16) else ""
        seen.add(name)
        yield PictureFile(root, name, "" if info.filename == name else info.filename, problem)


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


def _folders_of(name: str, is_folder: bool) -> Iterator[str]:
    """Yield the visible folders that a path in a zip stands for."""
    parts = name.split("/")
    for end in range(1, len(parts) + is_folder):
        if not is_visible(parts[end - 1]):
            return
        yield "/".join(parts[:end])
