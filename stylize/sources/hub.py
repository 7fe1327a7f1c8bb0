"""`hf:NAME_OR_FOLDER[:SPLIT]`: what Hugging Face `datasets` reads, as a source."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from stylize.console import InputError
from stylize.files import given_name
from stylize.shards.decode import PictureError
from stylize.sources import Source
from stylize.sources.folder import check_bytes
from stylize.sources.splits import check_unknown_classes, complete_splits, listed, name_splits, number_labels
from stylize.sources.tar import LABEL_KEYS

HUB_PREFIX = "hf:"


@dataclass(frozen=True, slots=True)
class HubImage:
    """A picture in a table: its rows, of which each has this picture alone, its row, its name and its label."""

    rows: Any
    row: int
    name: str
    label: str | int

    def read(self) -> bytes:
        """Return the picture's bytes; raise `PictureError` where it cannot be read or is too large."""
        (stored,) = self.rows[self.row].values()
        if stored is None:
            raise PictureError("cannot be read: its row holds no picture")
        try:
            payload: bytes = stored["bytes"] or Path(stored["path"]).read_bytes()
        except OSError as error:
            raise PictureError(f"cannot be read: {error.strerror or error}") from None
        check_bytes(len(payload))
        return payload


def open_hub(data: str, seed: int, test_fraction: float) -> Source:
    """Open a data set of the Hub, or a folder of Parquet files or pictures; splits are told by their names.

    A split that is asked for is the whole data set. Pictures are the first column of images, labels the column `label`,
    `cls` or `class`, else the first of classes. Raises `InputError` where there is no such data set, split or column,
    a picture has no label, and as for class folders.
    """
    given = data.removeprefix(HUB_PREFIX)
    path, _, split = (given, "", "") if Path(given).exists() else given.partition(":")
    tables = _load(data, path, split)
    named = {} if split else {theirs: ours for ours, theirs in name_splits(data, tables).items()}
    if unknown := sorted(tables.keys() - named.keys()) if named else []:
        raise InputError(f"{data} has the split {unknown[0]!r}, which is none of train, test, val: add :SPLIT for one.")
    first = next(iter(tables.values()))  # its labels' column declares names, or holds texts or bare numbers
    class_names, tagged = list(getattr(first.features[_columns(data, first)[1]], "names", [])), []
    for theirs, rows in tables.items():
        tagged += [(named.get(theirs), image, size) for image, size in _images(data, theirs, rows)]
    if not tagged:
        raise InputError(f"{data} has no rows: give another data set.")
    images = [image for _, image, _ in tagged]
    names, labels = number_labels(data, class_names, {image.label for image in images})
    places = [(ours, str(image.label)) for ours, image, _ in tagged]
    check_unknown_classes(data, ((ours or "train", label) for ours, label in places))
    splits, notes = complete_splits(data, places, [image.name for image in images], test_fraction, seed)
    listing = [(ours, labels[image.label], image) for ours, image in zip(splits, images, strict=True)]
    state = [(*entry[:2], image.name, size) for entry, (_, image, size) in zip(listing, tagged, strict=True)]
    return Source(given_name(Path(path)) if Path(path).exists() else path, names, listing, state, notes=notes)


def _load(data: str, path: str, split: str) -> dict[str, Any]:
    """Return a data set's tables by split."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"{data} needs more packages: pip install 'stylized-pairing[hub]'.") from None
    try:
        loaded = datasets.load_dataset(path, split=split or None)
    except Exception as error:  # it raises whatever the Hub and its readers of files raise
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"{data} cannot be read ({reason}): give hf:OWNER/NAME or hf:FOLDER, and :SPLIT.") from None
    return {split: loaded} if split else dict(loaded)


def _columns(data: str, rows: Any) -> tuple[str, str]:
    """Return the columns of pictures and labels."""
    kinds = {name: type(feature).__name__ for name, feature in rows.features.items()}
    picture = next((name for name, kind in kinds.items() if kind == "Image"), None)
    classes = [*(key for key in LABEL_KEYS if key in kinds), *(key for key in kinds if kinds[key] == "ClassLabel")]
    if picture is None or not classes:
        lacking = "labels" if picture else "images"
        raise InputError(f"{data} has no column of {lacking} (its columns are {listed(kinds)}): give another data set.")
    return picture, classes[0]


def _images(data: str, split: str, rows: Any) -> Iterator[tuple[HubImage, int]]:
    """Yield every picture of a split with its size in bytes, which are not read for it."""
    import datasets
    import pyarrow.compute

    picture, label = _columns(data, rows)
    stored = rows.select_columns([picture]).cast_column(picture, datasets.Image(decode=False))
    fields = [pyarrow.compute.struct_field(stored.data.column(picture), name) for name in ("path", "bytes")]
    sizes = pyarrow.compute.binary_length(fields[1]).to_pylist()
    for row, (path, size, value) in enumerate(zip(fields[0].to_pylist(), sizes, rows[label], strict=True)):
        if not isinstance(value, (int, str)) or isinstance(value, bool) or value in (-1, ""):
            raise InputError(f"{data}: row {row} of {split} has the label {value!r}: give a data set with all labels.")
        if size is None:
            size = Path(path).stat().st_size if path and Path(path).is_file() else -1
        yield HubImage(stored, row, f"{split}/{row:08d}{PurePath(path or '').suffix}", value), size
