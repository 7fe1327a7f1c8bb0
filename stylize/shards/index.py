"""Where the samples of a split lie in its shards, in arrays: a data set of millions is cheap to hand to processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stylize.errors import InputError
from stylize.shards.format import SampleLocation, index_shard
from stylize.shards.manifest import Manifest, ShardEntry
from stylize.shards.spans import read_spans
from stylize.wording import counted

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class SplitIndex:
    """The N samples of a split, in their order: keys (N,), labels (N,), and where their parts lie.

    `spans` (N, 2 + K, 2) holds (offset, bytes) of the original, its K copies and the label in shard `shards` (N,) of
    `paths`; `sha256` are the shards' hashes by the manifest.
    """

    paths: list[Path]
    sha256: list[str]
    keys: NDArray[np.str_]
    labels: Integers
    shards: Integers
    spans: Integers

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> Path:
        """Return the shard that holds a sample."""
        return self.paths[int(self.shards[index])]

    def read(self, index: int, parts: Sequence[int]) -> list[bytes]:
        """Return the chosen parts of a sample as they are in its shard now: 0 the original, k its k-th copy."""
        # Opened anew for every sample (some 5 µs): nothing to share between processes, no limit on open files.
        spans = self.spans[index].tolist()
        return read_spans(self.path(index), [spans[part] for part in parts])


def index_split(directory: Path, manifest: Manifest, split: str) -> SplitIndex:
    """Index a split by its tars' headers; raise `InputError` where these are not what the manifest says.

    That is: a shard that is missing or of another size, or another number of samples, copies or classes.
    """
    entries = [entry for entry in manifest.shards if entry.split == split]
    copies = manifest.styles_per_image if split == "train" else 0
    shards = [_index(directory / entry.name, entry, copies, len(manifest.class_names)) for entry in entries]
    keys, labels, spans = (list(arrays) for arrays in zip(*shards, strict=True)) if shards else ([], [], [])
    return SplitIndex(
        [directory / entry.name for entry in entries],
        [entry.sha256 for entry in entries],
        np.concatenate([np.empty(0, np.str_), *keys]),
        np.concatenate([np.empty(0, np.int64), *labels]),
        np.repeat(np.arange(len(shards)), [len(each) for each in labels]),
        np.concatenate([np.empty((0, 2 + copies, 2), np.int64), *spans]),
    )


def _index(path: Path, entry: ShardEntry, copies: int, classes: int) -> tuple[NDArray[np.str_], Integers, Integers]:
    """Return a shard's keys, labels and spans: arrays, because a data set's samples as objects take a kilobyte each."""
    locations = _locations(path, entry, copies, classes)
    spans = [(item.content, *item.styled, item.label_span) for item in locations]
    return (
        np.array([item.key for item in locations], dtype=np.str_),
        np.array([item.label for item in locations], dtype=np.int64),
        np.array([[(span.offset, span.size) for span in each] for each in spans], np.int64).reshape(-1, 2 + copies, 2),
    )


def _locations(path: Path, entry: ShardEntry, copies: int, classes: int) -> list[SampleLocation]:
    check_there(path, entry)
    locations = list(index_shard(path))
    if len(locations) != entry.samples:
        raise InputError(
            f"Shard {path} holds {counted(len(locations), 'sample')}, not the {entry.samples} of its manifest: "
            "fetch or make it again."
        )
    for location in locations:
        if len(location.styled) != copies:
            found = counted(len(location.styled), "stylized copy", "stylized copies")
            raise InputError(
                f"{path}: sample {location.key} has {found}, not the {copies} of its manifest: make the shard again."
            )
        if location.label >= classes:
            raise InputError(
                f"{path}: sample {location.key} has label {location.label}, but the manifest names only "
                f"{counted(classes, 'class', 'classes')}: make the shard again."
            )
    return locations


def check_there(path: Path, entry: ShardEntry) -> None:
    """Raise `InputError` where a shard is missing or of another size than the manifest's."""
    if not path.is_file() or path.stat().st_size != entry.bytes:
        raise differs(path)


def differs(path: Path) -> InputError:
    """Return the error for a shard that is not the one of its manifest."""
    return InputError(f"Shard {path} is missing or differs from its manifest: fetch or make it again.")
