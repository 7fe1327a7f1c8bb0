"""ImageNet-100: an ILSVRC2012 tree of class folders, restricted to a hundred classes or to those of a list."""

from functools import partial
from pathlib import Path

from stylize.errors import InputError
from stylize.sources.folder import FolderSource

PREFIX = "imagenet100:"
CLASSES = 100  # the first in the order of synsets, as in the paper's code


def open_imagenet100(data: str, seed: int, test_fraction: float) -> FolderSource:
    """Open `imagenet100:FOLDER` or `imagenet100:FOLDER:LIST`; the list names a class folder a line.

    Raises `InputError` where the folder has fewer classes, the list cannot be read or names a class that is not there,
    and as `FolderSource`.
    """
    folder, _, listed = data.removeprefix(PREFIX).partition(":")
    if not folder:
        raise InputError(f"{data!r} names no folder: give imagenet100:FOLDER, or imagenet100:FOLDER:LIST.")
    choose = partial(_listed, folder, Path(listed)) if listed else partial(_first, folder)
    return FolderSource(Path(folder), seed, test_fraction, choose)


def _first(folder: str, names: list[str]) -> list[str]:
    if len(names) < CLASSES:
        raise InputError(f"{folder} has {len(names)} classes, not {CLASSES} or more: give a list of classes after it.")
    return names[:CLASSES]


def _listed(folder: str, path: Path, names: list[str]) -> list[str]:
    try:
        words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"The list of classes {path} cannot be read ({error}): give a text file.") from None
    missing = [word for word in words if word not in names]
    if missing or not words:
        found = f"{path} names {missing[0]!r}, a class" if missing else f"{path} names no class"
        raise InputError(f"{found} that {folder} does not have: mend the list.")
    return words
