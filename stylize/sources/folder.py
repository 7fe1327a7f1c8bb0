"""Class folders as a source of labelled images, in a folder or a zip."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stylize.errors import InputError
from stylize.sources.picture_files import PictureFile, check_name, is_visible, list_pictures

SPLITS = ("train", "test")
_SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "test"}


@dataclass(frozen=True, slots=True)
class _Entry:
    file: PictureFile
    label: int


class FolderSource:
    """A folder or zip of class folders, optionally below `train/` and `test/` or `val/`."""

    def __init__(self, root: Path, seed: int, test_fraction: float) -> None:
        files = list_pictures(root)
        self.name = root.resolve().name
        check_name(self.name)
        depth = _common_depth([PurePosixPath(file.name) for file in files])
        divided = any(_in_split_folder(_folders(file, depth)) for file in files)
        _check_class_folders(root, files, depth + divided)
        triples = [(*_split_and_class(file, depth, divided, seed, test_fraction), file) for file in files]
        self._sizes = _sizes(root, files)
        self.class_names = tuple(sorted({name for split, name, _ in triples if split == "train"}))
        self._check(root, triples)
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._entries = {
            split: [_Entry(file, labels[name]) for own, name, file in triples if own == split] for split in SPLITS
        }

    def _check(self, root: Path, triples: Sequence[tuple[str, str, PictureFile]]) -> None:
        if len(self.class_names) < 2:
            found = ", ".join(self.class_names) or "none"
            raise InputError(f"{root} has fewer than two class folders with pictures ({found}): give one per class.")
        strangers = {name for split, name, _ in triples if split == "test"} - set(self.class_names)
        if strangers:
            names = ", ".join(sorted(strangers)[:5])
            raise InputError(f"{root}: classes {names} are in the test split but not in train: make them agree.")

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(self._entries[split])

    def label(self, split: str, index: int) -> int:
        """Return an image's label; classes are sorted by name."""
        return self._entries[split][index].label

    def path(self, split: str, index: int) -> str:
        """Return the path inside the folder or zip."""
        return self._entries[split][index].file.name

    def read(self, split: str, index: int) -> bytes:
        """Return an image file's bytes."""
        return self._entries[split][index].file.read()

    def fingerprint(self) -> str:
        """Return the SHA-256 over names and sizes, in a zip also checksums; a sample records its own bytes' hash."""
        return hashlib.sha256(repr(self._sizes).encode()).hexdigest()


def _check_class_folders(root: Path, files: Sequence[PictureFile], depth: int) -> None:
    """Refuse a folder with an empty class folder, or with one that is a link: its class would be lost silently."""
    if not root.is_dir():
        return
    classes = {PurePosixPath(file.name).parts[: depth + 1] for file in files}
    for parent in sorted({folders[:-1] for folders in classes}):
        for folder in sorted(root.joinpath(*parent).iterdir()):
            if is_visible(folder.name) and folder.is_dir() and (*parent, folder.name) not in classes:
                name = folder.relative_to(root)
                raise InputError(f"{root}: the folder {name} has no pictures, or is a link: fill or remove it.")


def _sizes(root: Path, files: Sequence[PictureFile]) -> list[tuple[str, int, int]]:
    if root.is_dir():
        return [(file.name, _size(root / file.name), 0) for file in files]
    with zipfile.ZipFile(root) as archive:
        infos = [archive.getinfo(file.name) for file in files]
    return [(info.filename, info.file_size, info.CRC) for info in infos]


def _size(path: Path) -> int:
    """Return a file's size, −1 for one that cannot be looked at: reading it will say why."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _common_depth(names: Sequence[PurePosixPath]) -> int:
    """Return how many leading folders all pictures share and that are neither a split nor a class."""
    depth = 0
    while all(len(name.parts) > depth + 2 for name in names):
        folders = {name.parts[depth] for name in names}
        if len(folders) > 1 or folders & set(_SPLIT_FOLDERS):
            break
        depth += 1
    return depth


def _folders(file: PictureFile, depth: int) -> tuple[str, ...]:
    return PurePosixPath(file.name).parts[depth:-1]


def _in_split_folder(folders: tuple[str, ...]) -> bool:
    return len(folders) > 1 and folders[0] in _SPLIT_FOLDERS


def _split_and_class(file: PictureFile, depth: int, divided: bool, seed: int, test_fraction: float) -> tuple[str, str]:
    folders = _folders(file, depth)
    if not folders or (divided and not _in_split_folder(folders)):
        raise InputError(f"{file.root}: the picture {file.name} lies in no class folder: put it into one.")
    if divided:
        return _SPLIT_FOLDERS[folders[0]], folders[1]
    digest = hashlib.sha256(f"{seed}:{file.name}".encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") < test_fraction * 2**64
    return ("test" if held_out else "train"), folders[0]
