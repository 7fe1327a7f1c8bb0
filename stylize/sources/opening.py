"""Open a source by what `--data` says."""

from collections import Counter
from functools import partial
from pathlib import Path

from stylize.console import InputError
from stylize.sources import Source
from stylize.sources.arrays import ShapesSource, open_cifar, open_npz
from stylize.sources.folder import exists, open_class_folders
from stylize.sources.hub import HUB_PREFIX, open_hub
from stylize.sources.splits import check_fraction
from stylize.sources.tar import is_webdataset, list_tars, open_tars

PREFIX = "imagenet100:"
CLASSES = 100  # the first in the order of synsets, as in the paper's code
EMBEDDED = ("shapes", "cifar10", "cifar100")


def open_source(data: str, *, seed: int = 0, test_fraction: float = 0.1) -> Source:
    """Open what `--data` says.

    That is `shapes`, `cifar10`, `cifar100`, `imagenet100:FOLDER`, `hf:NAME_OR_FOLDER[:SPLIT]`, a folder or zip of class
    folders, `images.npz`, or a WebDataset.
    In a folder without a test split a fraction of every class's images is held out, by hash and seed; 0 for none.
    Raises `InputError` where the source does not exist, is empty, or has classes without images, or for a fraction
    beyond [0, 1).
    """
    if data in EMBEDDED:
        return ShapesSource() if data == "shapes" else open_cifar(data)
    check_fraction(test_fraction)
    if data.startswith(PREFIX):
        folder, _, classes = data.removeprefix(PREFIX).partition(":")
        if not folder:
            raise InputError(f"{data!r} names no folder: give imagenet100:FOLDER, or imagenet100:FOLDER:LIST.")
        return open_class_folders(Path(folder), seed, test_fraction, partial(_choose_classes, folder, classes))
    if data.startswith(HUB_PREFIX):
        return open_hub(data, seed, test_fraction)
    if is_webdataset(data):
        return open_tars(data, seed, test_fraction)
    check_source_exists(data)
    if data.lower().endswith(".npz"):
        return open_npz(data, seed, test_fraction)
    return open_class_folders(Path(data), seed, test_fraction)


def check_source_exists(data: str) -> None:
    """Raise `InputError` for what is neither the name of an embedded data set nor a path that exists."""
    if data in EMBEDDED or data.startswith(HUB_PREFIX):
        return
    if is_webdataset(data):
        list_tars(data, Counter())
        return
    path = data.removeprefix(PREFIX).partition(":")[0] if data.startswith(PREFIX) else data
    if not (path and exists(Path(path))):
        raise InputError(f"There is no data set {data!r}: give {', '.join(EMBEDDED)}, or a folder, zip, npz or tars.")


def _choose_classes(folder: str, listed: str, names: list[str]) -> list[str]:
    """Return the classes that the file `listed` names, one a line; the first hundred where no file is given."""
    if not listed and len(names) < CLASSES:
        raise InputError(f"{folder} has {len(names)} classes, not {CLASSES} or more: give a list of classes after it.")
    if not listed:
        return names[:CLASSES]
    try:
        words = [line.split()[0] for line in Path(listed).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"The list of classes {listed} cannot be read ({error}): give a text file.") from None
    missing = [word for word in words if word not in names]
    if missing or not words:
        found = f"{listed} names {missing[0]!r}, a class" if missing else f"{listed} names no class"
        raise InputError(f"{found} that {folder} does not have: mend the list.")
    return words
