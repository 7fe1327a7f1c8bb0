"""The files beside the shards for other readers: indices, checksums, lists of shards, and the data card."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from stylize.console import counted, literal
from stylize.files import write_atomically
from stylize.shards.index import CHECKSUM_SUFFIX, index_name, index_split, render_index, write_indices
from stylize.shards.manifest import SPLITS, Manifest
from stylize.shards.shard import open_shard, read_span, shard_members

INDEX_SUFFIX = ".idx"
CARD_NAME = "README.md"
_SPLIT = "|".join(SPLITS)
SIDE_NAME = re.compile(
    rf"(?:{_SPLIT})-[0-9]+(?:{re.escape(INDEX_SUFFIX)}|{re.escape(CHECKSUM_SUFFIX)})|wids-(?:{_SPLIT})\.json|index-(?:{_SPLIT})\.npy"
)
# (name of the configuration, split here, split there); the copies would get lost among splits that have none
CONFIGURATIONS = (("pairs", "train", "train"), ("originals", "val", "validation"), ("originals", "test", "test"))
NAMED = 20
DESCRIBED = ("alpha", "transfer", "size", "work_size", "codec", "quality", "seed", "encoder_sha256", "decoder_sha256")


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


def side_names(manifest: Manifest) -> set[str]:
    """Return the names of the files that may stand beside a folder's shards."""
    stems = [Path(shard.name) for shard in manifest.shards]
    own = {stem.with_suffix(suffix).name for stem in stems for suffix in (INDEX_SUFFIX, CHECKSUM_SUFFIX)}
    return {*own, *list_shards(manifest), *map(index_name, manifest.splits), CARD_NAME}


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
    for split in manifest.splits:
        name = index_name(split)
        if (directory / name).exists():
            yield from _differing(directory, {name: render_index(index_split(directory, manifest, split))})


def _differing(directory: Path, files: dict[str, bytes]) -> Iterator[str]:
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
        shards = [
            {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes}
            for shard in manifest.shards
            if shard.split == split
        ]
        document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
        lists[f"wids-{split}.json"] = (json.dumps(document, indent=2) + "\n").encode()
    return lists


def render_card(manifest: Manifest) -> str:
    """Return the card as Markdown: configurations for `datasets`, then what the folder holds and how it was made."""
    return "\n".join(["---", *_configurations(manifest), "---", "", *_description(manifest), ""])


def _configurations(manifest: Manifest) -> Iterator[str]:
    """Yield the card's head as YAML; the first configuration is what `load_dataset` reads when none is named."""
    present = [row for row in CONFIGURATIONS if manifest.samples(row[1])]
    yield "configs:" if present else "configs: []"
    for number, name in enumerate(dict.fromkeys(name for name, _, _ in present)):
        yield f"- config_name: {name}"
        if number == 0:
            yield "  default: true"
        yield "  data_files:"
        for _, split, theirs in (row for row in present if row[0] == name):
            yield f"  - split: {theirs}"
            yield f"    path: {split}-*.tar"
    yield "tags: [webdataset, image-classification, style-transfer]"


def _description(manifest: Manifest) -> Iterator[str]:
    spec, copies = manifest.spec, manifest.styles_per_image
    yield f"# {_code(spec.get('source', 'images'))}, originals and stylized copies"
    yield ""
    held = {split: manifest.samples(split) for split in ("train", "val", "test")}
    yield "Shards for [WebDataset](https://github.com/webdataset/webdataset); `manifest.json` says how they were made."
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    for split, samples in held.items():
        if samples:
            kind = counted(copies, "stylized copy", "stylized copies") + " each" if split == "train" else "originals"
            yield f"| {split} | {counted(samples, 'image')}, {kind} |"
    yield f"| classes | {len(manifest.class_names)}: {_listed(manifest.class_names)} |"
    if manifest.style_names:
        yield f"| styles | {len(manifest.style_names)}: {_listed(manifest.style_names)} |"
    for name in DESCRIBED:
        if spec.get(name) is not None:
            yield f"| {name.replace('_', ' ')} | {_code(spec[name])} |"
    yield ""
    yield "`cls` is the label, an index into the manifest's `class_names`. The licence is that of the source's images;"
    yield "say here which it is before you share the folder. This file may be edited: it counts in no checksum."


def _listed(names: list[str]) -> str:
    return ", ".join(map(_code, names[:NAMED])) + (" …" if len(names) > NAMED else "")


def _code(value: object) -> str:
    """Return a value as code of one line in Markdown; what would end it or a table's cell is replaced."""
    return "`" + literal(str(value)).replace("`", "'").replace("|", "/") + "`"
