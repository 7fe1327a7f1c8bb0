"""Class folders as a source of labelled images, in a folder or a zip."""

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import splitext

from stylize.errors import InputError
from stylize.sources.formats import PICTURE_SUFFIXES
from stylize.sources.held_out import hold_out
from stylize.sources.layout import SPLITS, Layout, look_alikes, read_layout, split_of
from stylize.sources.listing import Listing, is_zip, list_files
from stylize.sources.picture_files import PictureFile, check_name, exists, open_zip
from stylize.sources.pictures import PictureError, is_picture

Choose = Callable[[list[str]], Iterable[str]]
OUTSIDE = "outside the class folders"


@dataclass(frozen=True, slots=True)
class _Entry:
    file: PictureFile
    label: int


class FolderSource:
    """A folder or zip of class folders, optionally below split folders (see docs/shard-format.md).

    `splits` are those that have images; `left_out` counts the files that are no pictures, by rule; `notes` say in
    sentences what else than the folders' names decided on the splits. Pictures that all lie in the folder itself are of
    one class, called as the folder. `choose` returns, of all classes, those to keep.
    """

    def __init__(self, root: Path, seed: int, test_fraction: float, choose: Choose | None = None) -> None:
        _check_root(root)
        self.name = root.resolve().name
        check_name(self.name)
        listing = list_files(root)
        files = _inside_classes(root, listing)
        if not files:
            raise InputError(f"{root} holds no pictures: give another folder or zip.")
        self.left_out: Mapping[str, int] = dict(sorted(listing.left_out.items()))
        layout = _layout(root, files)
        _check_class_folders(root, files, listing.folders, layout)
        if choose:
            kept = set(choose(sorted({name for _, name in layout.places})))
            files = [file for file, (_, name) in zip(files, layout.places, strict=True) if name in kept]
            layout = replace(layout, places=[place for place in layout.places if place[1] in kept])
        places, self.notes = _with_test_split(root, files, layout, seed, test_fraction)
        self._sizes = _sizes(root, files)
        self.class_names = tuple(sorted({name for _, name in places}))
        self._check_classes(root, flat=_is_flat(files))
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._entries: dict[str, list[_Entry]] = {split: [] for split in SPLITS}
        for (split, name), file in zip(places, files, strict=True):
            self._entries[split].append(_Entry(file, labels[name]))
        self.splits = tuple(split for split in SPLITS if self._entries[split])

    def _check_classes(self, root: Path, *, flat: bool) -> None:
        if len(self.class_names) < 2 and not flat:
            found = ", ".join(self.class_names) or "none"
            raise InputError(f"{root} has fewer than two class folders with pictures ({found}): give one per class.")
        for one, other in look_alikes(self.class_names):
            raise InputError(f"{root}: two classes are called {one!r} in different Unicode forms: rename {other!r}.")

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


def _check_root(root: Path) -> None:
    """Refuse a file that is no zip, with what to do about it."""
    if not exists(root) or root.is_dir() or is_zip(root):
        return
    if _is_tar(root):
        raise InputError(f"{root} is a tar: unpack it and give the folder, or give a zip of class folders.")
    raise InputError(f"{root} is a single file and no zip: give a folder or zip of class folders.")


def _is_tar(root: Path) -> bool:
    try:
        return tarfile.is_tarfile(root)
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror or error}): check its permissions.") from None
    except (EOFError, lzma.LZMAError, zlib.error):  # a compressed file that is cut or damaged
        return False


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
        if tuple(file.name.split("/")[:depth]) in classes or _is_picture(file):
            files.append(file)
        else:
            listing.left_out[OUTSIDE] += 1
    return files


def _layout(root: Path, files: Sequence[PictureFile]) -> Layout:
    """Return the layout of class folders, or that of one class where no picture lies in a folder."""
    if _is_flat(files):
        return Layout([(None, root.resolve().name)] * len(files), {}, 0)
    return read_layout(str(root), [file.name for file in files])


def _is_flat(files: Sequence[PictureFile]) -> bool:
    return not any("/" in file.name for file in files)


def _is_picture(file: PictureFile) -> bool:
    try:
        return is_picture(file.read())
    except PictureError as error:
        raise InputError(f"{file.root}: {file.name} {error}: mend or remove it.") from None


def _check_class_folders(root: Path, files: Sequence[PictureFile], folders: set[str], layout: Layout) -> None:
    """Refuse a folder without pictures among the class folders: its class would be lost silently."""
    classes = {"/".join(file.name.split("/")[: layout.depth + 1]) for file in files}
    around = {name.rpartition("/")[0] for name in classes}
    for name in sorted(folders - classes):
        if name.rpartition("/")[0] in around:
            raise InputError(f"{root}: the folder {name} has no pictures: fill or remove it.")


def _with_test_split(
    root: Path, files: Sequence[PictureFile], layout: Layout, seed: int, test_fraction: float
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return every file's split and class, and notes on how the test split came about where no folder names it."""
    folder = layout.split_folders.get("test")
    if folder is not None:
        note = f"{folder}/ is the test split" if split_of(folder) == "val" else ""
        return [(split or "train", name) for split, name in layout.places], (note,) if note else ()
    images = [(name, file.name) for (_, name), file in zip(layout.places, files, strict=True)]
    chosen = hold_out(str(root), images, test_fraction, seed)
    places = [("test" if path in chosen else "train", name) for name, path in images]
    return places, (f"{len(chosen)} of {len(images)} images are held out for testing",)


def _sizes(root: Path, files: Sequence[PictureFile]) -> list[tuple[str, int, int]]:
    if root.is_dir():
        return [(file.name, _size(file), 0) for file in files]
    archive = open_zip(root)
    infos = [archive.getinfo(file.member or file.name) for file in files]
    return [(file.name, info.file_size, info.CRC) for file, info in zip(files, infos, strict=True)]


def _size(file: PictureFile) -> int:
    """Return a file's size, −1 for one that cannot be looked at: reading it will say why."""
    try:
        return -1 if file.problem else (file.root / file.name).stat().st_size
    except OSError:
        return -1
