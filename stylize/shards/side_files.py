"""Files beside the manifest that make other readers fast and samples checkable; each can be made again from the shards.

`.idx` is DALI's index, `.sha256` the checksums of members, `wids-SPLIT.json` the list that `wids` opens, and
`index-SPLIT.npy` the table that this project's trainer starts from.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from stylize.atomic import write_atomically
from stylize.shards.card import CARD_NAME, render_card
from stylize.shards.checked import CHECKSUM_SUFFIX
from stylize.shards.format import shard_members
from stylize.shards.index import index_split
from stylize.shards.manifest import Manifest
from stylize.shards.spans import open_shard, read_span
from stylize.shards.stored_index import index_name, render_index

INDEX_SUFFIX = ".idx"
SIDE_NAME = re.compile(
    rf"(?:train|test|val)-[0-9]+(?:{re.escape(INDEX_SUFFIX)}|{re.escape(CHECKSUM_SUFFIX)})"
    r"|wids-(?:train|test|val)\.json|index-(?:train|test|val)\.npy"
)


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
    for split in _splits(manifest):
        shards = [
            {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes}
            for shard in manifest.shards
            if shard.split == split
        ]
        document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        lists[f"wids-{split}.json"] = (json.dumps(document, indent=2) + "\n").encode()
    return lists


def _splits(manifest: Manifest) -> list[str]:
    return list(dict.fromkeys(shard.split for shard in manifest.shards))


def write_side_files(directory: Path, manifest: Manifest) -> None:
    """Write all files that can stand beside a folder's shards; a data card that is there is left as it is.

    Raises `InputError` where a shard cannot be read or a file cannot be written.
    """
    for shard in manifest.shards:
        for name, payload in describe_shard(directory / shard.name).items():
            write_atomically(directory / name, payload)
    for name, payload in list_shards(manifest).items():
        write_atomically(directory / name, payload)
    write_indices(directory, manifest)
    if not (directory / CARD_NAME).exists():
        write_atomically(directory / CARD_NAME, render_card(manifest).encode())


def write_indices(directory: Path, manifest: Manifest) -> None:
    """Write the table of every split, by which readers start; raise `InputError` as `write_side_files` does."""
    for split in _splits(manifest):
        write_atomically(directory / index_name(split), render_index(index_split(directory, manifest, split)))


def side_names(manifest: Manifest) -> set[str]:
    """Return the names of the files that may stand beside a folder's shards."""
    stems = [Path(shard.name) for shard in manifest.shards]
    own = {stem.with_suffix(suffix).name for stem in stems for suffix in (INDEX_SUFFIX, CHECKSUM_SUFFIX)}
    return {*own, *list_shards(manifest), *map(index_name, _splits(manifest)), CARD_NAME}


def shard_side_defects(path: Path) -> Iterator[str]:
    """Yield the names of files beside a whole shard that do not say what it holds; absent ones are none."""
    present = [path.with_suffix(suffix) for suffix in (INDEX_SUFFIX, CHECKSUM_SUFFIX)]
    if any(file.exists() for file in present):
        yield from _differing(path.parent, describe_shard(path))


def list_defects(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the names of lists of shards that differ from the manifest's."""
    yield from _differing(directory, list_shards(manifest))


def index_defects(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the names of tables of samples that do not say where these lie in shards that are whole."""
    for split in _splits(manifest):
        name = index_name(split)
        if (directory / name).exists():
            yield from _differing(directory, {name: render_index(index_split(directory, manifest, split))})


def _differing(directory: Path, files: dict[str, bytes]) -> Iterator[str]:
    for name, payload in files.items():
        path = directory / name
        if path.exists() and not (path.is_file() and path.read_bytes() == payload):
            yield f"{name}: differs from what the shards hold: run `stylize index`"
