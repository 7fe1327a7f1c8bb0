"""Where samples lie, and the other files beside shards: checksums and other readers' indices."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylize.console import InputError, counted
from stylize.files import file_sha256, write_atomically
from stylize.shards import SampleLocation, index_shard, open_shard, read_span, read_spans, shard_members
from stylize.shards.card import CARD_NAME, CROISSANT_NAME, NO_FACTS, Facts, write_card
from stylize.shards.manifest import SPLITS, Manifest, ShardEntry

Integers = NDArray[np.int64]
Table = NDArray[np.void]
CHECKSUM_SUFFIX = ".sha256"


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


def index_name(split: str) -> str:
    """Return the name of a split's table."""
    return f"index-{split}.npy"


def load_index(directory: Path, manifest: Manifest, split: str) -> SplitIndex:
    """Return the index of a split: by its table or, where none was stored, by the tars' headers.

    A table is checked for what the manifest tells; that its shards are so inside shows when their samples are read.
    Raises `InputError` as `index_split` does, and where the table is damaged or does not fit the manifest.
    """
    path = directory / index_name(split)
    entries = manifest.entries(split)
    if not entries or not path.exists():
        return index_split(directory, manifest, split)
    try:
        # Mapped, so that a size which is a lie allocates nothing.
        table: Table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): run `stylize index` on its folder.") from None
    if reason := _misfit(table, entries, manifest.copies(split), len(manifest.class_names)):
        raise InputError(f"{path} does not fit its manifest ({reason}): run `stylize index` on its folder.")
    for entry in entries:
        _check_there(directory / entry.name, entry)
    return _split_index(directory, entries, table)


def index_split(directory: Path, manifest: Manifest, split: str) -> SplitIndex:
    """Index a split by its tars' headers; raise `InputError` where these are not what the manifest says.

    That is: a shard that is missing or of another size, or another number of samples, copies or classes.
    """
    entries, copies = manifest.entries(split), manifest.copies(split)
    # Arrays for every shard, because a data set's samples as objects take a kilobyte each.
    tables = [
        _table(_locations(directory / entry.name, entry, copies, len(manifest.class_names)), copies, number)
        for number, entry in enumerate(entries)
    ]
    return _split_index(directory, entries, np.concatenate([_table([], copies, 0), *tables]))


def _split_index(directory: Path, entries: Sequence[ShardEntry], table: Table) -> SplitIndex:
    paths, hashes = [directory / entry.name for entry in entries], [entry.sha256 for entry in entries]
    key, *others = (np.array(table[name]) for name in ("key", "label", "shard", "spans"))
    return SplitIndex(paths, hashes, key.astype(np.str_), *others)


def _row(digits: int, parts: int) -> np.dtype[np.void]:
    return np.dtype([("key", f"S{digits}"), ("label", "<i8"), ("shard", "<i8"), ("spans", "<i8", (parts, 2))])


def _table(locations: Sequence[SampleLocation], copies: int, shard: int) -> Table:
    """Return a row for every sample of a shard, which has this number in its split."""
    table = np.empty(len(locations), _row(max((len(item.key) for item in locations), default=1), 2 + copies))
    table["key"] = [item.key for item in locations]
    table["label"] = [item.label for item in locations]
    table["shard"] = shard
    spans = [[(span.offset, span.size) for span in (item.content, *item.styled, item.label_span)] for item in locations]
    table["spans"] = np.array(spans, np.int64).reshape(-1, 2 + copies, 2)
    return table


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


def write_indices(directory: Path, manifest: Manifest) -> None:
    """Write the table of every split, by which readers start; raise `InputError` where that fails."""
    for split in manifest.splits:
        write_atomically(directory / index_name(split), render_index(index_split(directory, manifest, split)))


def _locations(path: Path, entry: ShardEntry, copies: int, classes: int) -> list[SampleLocation]:
    _check_there(path, entry)
    locations = list(index_shard(path))
    wrong = None
    if len(locations) != entry.samples:
        wrong = f"it holds {counted(len(locations), 'sample')}, not the {entry.samples} of its manifest"
    for location in locations if wrong is None else ():
        if (found := len(location.styled)) != copies:
            kinds = counted(found, "stylized copy", "stylized copies")
            wrong = f"sample {location.key} has {kinds}, not the {copies} of its manifest"
            break
        if location.label >= classes:
            names = counted(classes, "class", "classes")
            wrong = f"sample {location.key} has label {location.label}, but the manifest names only {names}"
            break
    if wrong:
        raise InputError(f"Shard {path}: {wrong}: fetch or make it again.")
    return locations


def _check_there(path: Path, entry: ShardEntry) -> None:
    """Raise `InputError` where a shard is missing or of another size than the manifest's."""
    if not path.is_file() or path.stat().st_size != entry.bytes:
        raise differs(path)


def check_whole(path: Path, entry: ShardEntry) -> None:
    """Raise `InputError` where a shard is missing or has another SHA-256 than the manifest's."""
    if not path.is_file() or file_sha256(path) != entry.sha256:
        raise differs(path)


def differs(path: Path) -> InputError:
    """Return the error for a shard that is not the one of its manifest."""
    return InputError(f"Shard {path} is missing or differs from its manifest: fetch or make it again.")


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


INDEX_SUFFIX = ".idx"
_SPLIT = "|".join(SPLITS)
SIDE_NAME = re.compile(
    rf"(?:{_SPLIT})-[0-9]+(?:{re.escape(INDEX_SUFFIX)}|{re.escape(CHECKSUM_SUFFIX)})|wids-(?:{_SPLIT})\.json|index-(?:{_SPLIT})\.npy"
)


def write_side_files(directory: Path, manifest: Manifest, facts: Facts = NO_FACTS) -> None:
    """Write all files that can stand beside a folder's shards; a card that is there stays, unless there are `facts`.

    Raises `InputError` where a shard cannot be read or a file cannot be written.
    """
    for shard in manifest.shards:
        for name, payload in describe_shard(directory / shard.name).items():
            write_atomically(directory / name, payload)
    for name, payload in list_shards(manifest).items():
        write_atomically(directory / name, payload)
    write_indices(directory, manifest)
    write_card(directory, manifest, facts)


def side_names(manifest: Manifest) -> set[str]:
    """Return the names of the files that may stand beside a folder's shards."""
    stems = [Path(shard.name) for shard in manifest.shards]
    own = {stem.with_suffix(suffix).name for stem in stems for suffix in (INDEX_SUFFIX, CHECKSUM_SUFFIX)}
    return {*own, *list_shards(manifest), *map(index_name, manifest.splits), CARD_NAME, CROISSANT_NAME}


def side_defects(path: Path) -> Iterator[str]:
    """Yield the names of files beside a whole shard that do not say what it holds; absent ones are none."""
    present = [path.with_suffix(suffix) for suffix in (INDEX_SUFFIX, CHECKSUM_SUFFIX)]
    if any(file.exists() for file in present):
        yield from differing(path.parent, describe_shard(path))


def index_defects(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the names of tables of samples that do not say where these lie in shards that are whole."""
    for split in manifest.splits:
        name = index_name(split)
        if (directory / name).exists():
            yield from differing(directory, {name: render_index(index_split(directory, manifest, split))})


def differing(directory: Path, files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield a defect for each file of a folder that is there and has other bytes than it should have."""
    for name, payload in files.items():
        path = directory / name
        if path.exists() and not (path.is_file() and path.read_bytes() == payload):
            yield f"{name}: differs from what the shards hold: run `stylize index`"


def describe_shard(path: Path) -> dict[str, bytes]:
    """Return the files that stand beside a shard, by name: its index and the SHA-256 of its members.

    Raises `InputError` for a shard that cannot be read or holds foreign members.
    """
    samples, checksums = [], []
    with open_shard(path) as file:
        for _, members in groupby(shard_members(path), key=lambda member: member[0]["key"]):
            parts = []
            for match, span in members:
                name = match.string
                parts.append(f"{name.partition('.')[2]} {span.offset} {span.size} {name}")
                checksums.append(f"{hashlib.sha256(read_span(file, span)).hexdigest()}  {name}\n")
            samples.append(" ".join(parts))
    index = "".join(f"{line}\n" for line in [f"v1.2 {len(samples)}", *samples])
    texts = {INDEX_SUFFIX: index, CHECKSUM_SUFFIX: "".join(checksums)}
    return {path.with_suffix(suffix).name: text.encode() for suffix, text in texts.items()}


def list_shards(manifest: Manifest) -> dict[str, bytes]:
    """Return the files that list the shards of every split for `wids`, by name."""
    lists = {}
    for split in manifest.splits:
        entries = manifest.entries(split)
        shards = [{"url": entry.name, "nsamples": entry.samples, "filesize": entry.bytes} for entry in entries]
        document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        lists[f"wids-{split}.json"] = (json.dumps(document, indent=2) + "\n").encode()
    return lists
