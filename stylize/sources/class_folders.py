"""Class folders, in a folder or a zip, maybe below split folders, as a source of labelled images."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from posixpath import splitext

from stylize.console import InputError
from stylize.files import given_name
from stylize.shards.decode import PICTURE_SUFFIXES, PictureError, is_picture
from stylize.sources.folder import Listing, PictureFile, check_name, exists, is_zip, list_files, open_zip
from stylize.sources.listed import ListedSource
from stylize.sources.splits import Layout, complete_splits, look_alikes, read_layout

Choose = Callable[[list[str]], Iterable[str]]
OUTSIDE = "outside the class folders"


def open_class_folders(root: Path, seed: int, test_fraction: float, choose: Choose | None = None) -> ListedSource:
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
    _check_classes(root, labels, flat=_is_flat(files))
    images = ((split, labels[name], file) for split, name, file in zip(splits, classes, files, strict=True))
    return ListedSource(given_name(root), labels, images, _sizes(root, files), listing.ignored, notes)


def _check_classes(root: Path, names: Iterable[str], *, flat: bool) -> None:
    found = list(names)
    if len(found) < 2 and not flat:
        held = ", ".join(found) or "none"
        raise InputError(f"{root} has fewer than two class folders with pictures ({held}): give one per class.")
    for one, other in look_alikes(found):
        raise InputError(f"{root}: two classes are called {one!r} in different Unicode forms: rename {other!r}.")


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
            listing.ignored[OUTSIDE] += 1
    return files


def _layout(root: Path, files: Sequence[PictureFile]) -> Layout:
    """Return the layout of class folders, or that of one class where no picture lies in a folder."""
    if _is_flat(files):
        return Layout([(None, given_name(root))] * len(files), 0)
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
