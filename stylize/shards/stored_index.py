"""`index-SPLIT.npy`: where a split's samples lie, in one table, so that readers start without walking through tars."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylize.errors import InputError
from stylize.shards.index import SplitIndex, check_there, index_split
from stylize.shards.manifest import Manifest, ShardEntry

Table = NDArray[np.void]
ORIGIN = "origin"  # in a folder whose shards are not all there: the URL behind which the others are


def index_name(split: str) -> str:
    """Return the name of a split's table."""
    return f"index-{split}.npy"


def render_index(index: SplitIndex) -> bytes:
    """Return the table as a `.npy` file: a row a sample, in their order.

    Its fields are `key`, `label`, `shard` (number in the split) and `spans`, (2 + K, 2): offset and bytes of the
    original, its K copies and the label.
    """
    table = np.empty(len(index), _row(index.keys.dtype.itemsize // 4, index.spans.shape[1]))
    table["key"], table["label"], table["shard"], table["spans"] = index.keys, index.labels, index.shards, index.spans
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    return file.getvalue()


def load_index(directory: Path, manifest: Manifest, split: str) -> SplitIndex:
    """Return the index of a split: by its table or, where none was stored, by the tars' headers.

    A table is checked for what the manifest tells; that its shards are so inside shows when their samples are read.
    Where the folder has an `ORIGIN`, shards may be missing.
    Raises `InputError` as `index_split` does, and where the table is damaged or does not fit the manifest.
    """
    path = directory / index_name(split)
    entries = [entry for entry in manifest.shards if entry.split == split]
    if not entries or not path.exists():
        return index_split(directory, manifest, split)
    table = _read(path)
    copies = manifest.styles_per_image if split == "train" else 0
    if reason := _misfit(table, entries, copies, len(manifest.class_names)):
        raise InputError(f"{path} does not fit its manifest ({reason}): run `stylize index` on its folder.")
    complete = not (directory / ORIGIN).exists()
    for entry in entries:
        if complete or (directory / entry.name).exists():
            check_there(directory / entry.name, entry)
    return SplitIndex(
        [directory / entry.name for entry in entries],
        [entry.sha256 for entry in entries],
        np.array(table["key"]).astype(np.str_),
        *(np.array(table[name]) for name in ("label", "shard", "spans")),
    )


def _row(digits: int, parts: int) -> np.dtype[np.void]:
    return np.dtype([("key", f"S{digits}"), ("label", "<i8"), ("shard", "<i8"), ("spans", "<i8", (parts, 2))])


def _read(path: Path) -> Table:
    try:
        # Mapped, so that a size which is a lie allocates nothing.
        table: Table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): run `stylize index` on its folder.") from None
    return table


def _misfit(table: Table, entries: Sequence[ShardEntry], copies: int, classes: int) -> str | None:
    """Return how a table contradicts the manifest, None where it does not."""
    fields: Mapping[str, Any] = table.dtype.fields or {}
    if table.ndim != 1 or "key" not in fields or table.dtype != _row(fields["key"][0].itemsize, 2 + copies):
        return "other columns"
    shard, label = table["shard"], table["label"]
    if not np.array_equal(shard, np.repeat(np.arange(len(entries)), [entry.samples for entry in entries])):
        return "other samples"
    if (label < 0).any() or (label >= classes).any():
        return "labels without a class"
    starts, sizes = table["spans"][..., 0], table["spans"][..., 1]
    room = np.array([entry.bytes for entry in entries])[shard][:, None]
    if (sizes < 0).any() or (starts < BLOCKSIZE).any() or (starts > room).any() or (sizes > room - starts).any():
        return "places outside the shards"
    after, same = starts.ravel()[1:], np.repeat(shard, starts.shape[1])
    if (after < (starts + sizes).ravel()[:-1] + BLOCKSIZE)[same[1:] == same[:-1]].any():
        return "places out of order"
    return None
