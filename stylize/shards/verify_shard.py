"""Check one shard against its manifest and name every defect of every sample."""

import re
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path

from stylize.shards.format import LABEL, MEMBER_NAME, file_sha256, parse_metadata
from stylize.shards.manifest import Manifest, ShardEntry
from stylize.shards.spans import open_shard, read_span
from stylize.shards.tar_scan import Member, scan_tar
from stylize.sources.pictures import PictureError, decode_picture
from stylize.wording import counted

_SHA256 = re.compile(r"[0-9a-f]{64}")
Places = dict[tuple[str, str], str]


def shard_defects(path: Path, manifest: Manifest, shard: ShardEntry, places: Places) -> list[str]:
    """Return a shard file's defects; `places` holds the shard of every (split, key) met so far, and is added to.

    Raises `InputError` or `OSError` where the file cannot be read.
    """
    defects = []
    if (size := path.stat().st_size) != shard.bytes:
        defects.append(f"{counted(size, 'byte')}, the manifest says {shard.bytes}")
    if file_sha256(path) != shard.sha256:
        defects.append("SHA-256 differs from the manifest's")
    samples = 0
    with open_shard(path) as file:
        for members in _samples(_own_members(scan_tar(file, defects), defects)):
            samples += 1
            key = _split_name(members[0])[0]
            if (shard.split, key) in places:
                defects.append(f"sample {key}: stands in {places[shard.split, key]} already")
            places[shard.split, key] = shard.name
            defects += [f"sample {key}: {defect}" for defect in _sample_defects(manifest, shard.split, members, file)]
    if samples != shard.samples:
        defects.append(f"{counted(samples, 'sample')}, the manifest says {shard.samples}")
    return defects


def _split_name(member: Member) -> tuple[str, str]:
    """Return (key, rest) of a member's name: `00001234` and `content.jpg`."""
    key, _, rest = member.name.partition(".")
    return key, rest


def _own_members(members: Iterable[Member], defects: list[str]) -> Iterator[Member]:
    """Yield the regular members that the format names; any other is a defect."""
    for member in members:
        if member.kind or not MEMBER_NAME.fullmatch(member.name):
            defects.append(f"foreign member {member.name!r}" + (f", {member.kind}" if member.kind else ""))
        else:
            yield member


def _samples(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Yield runs of members of one key; a second `content` begins a new sample."""
    sample: list[Member] = []
    for member in members:
        key, rest = _split_name(member)
        if sample and (key != _split_name(sample[0])[0] or rest.startswith("content")):
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _sample_defects(manifest: Manifest, split: str, members: list[Member], file: BufferedReader) -> Iterator[str]:
    copies = manifest.styles_per_image if split == "train" else 0
    styled = ["styled"] if copies == 1 else [f"styled{k}" for k in range(copies)]
    codec = manifest.spec.get("codec")
    expected = [*(f"{role}.{codec}" for role in ["content", *styled]), "cls", "json"]
    found = [_split_name(member)[1] for member in members]
    if found != expected:
        yield f"has the members {', '.join(found)} instead of {', '.join(expected)}"
    parts = {name: read_span(file, member.span) for name, member in zip(found, members, strict=True)}
    if "cls" in parts:
        yield from _label_defects(parts["cls"], len(manifest.class_names))
    if "json" in parts:
        yield from _metadata_defects(parts["json"], manifest, split)
    yield from _picture_defects(parts, manifest.spec.get("size"))


def _label_defects(payload: bytes, classes: int) -> Iterator[str]:
    if not LABEL.fullmatch(payload):
        yield f"label {payload[:40]!r}, which is not a number"
    elif int(payload) >= classes:
        yield f"label {int(payload)} of {counted(classes, 'class', 'classes')}"


def _metadata_defects(payload: bytes, manifest: Manifest, split: str) -> Iterator[str]:
    try:
        metadata = parse_metadata(payload)
    except ValueError as error:
        yield f"metadata {error}"
        return
    if not isinstance(metadata.get("source"), str) or not _SHA256.fullmatch(str(metadata.get("source_sha256"))):
        yield "metadata do not name the source and its SHA-256"
    if split != "train":
        return
    alpha = manifest.spec.get("alpha")  # null where samples have different ones, or nobody knows
    if alpha is not None and metadata.get("alpha") != alpha:
        yield f"alpha {metadata.get('alpha')}, the manifest says {alpha}"
    styles, known = metadata.get("styles"), manifest.style_names
    if not isinstance(styles, list) or len(styles) != manifest.styles_per_image or any(s not in known for s in styles):
        yield f"styles {styles}, not {manifest.styles_per_image} of those that the manifest names"


def _picture_defects(parts: Mapping[str, bytes], side: int | None) -> Iterator[str]:
    sizes = {}
    for name, payload in parts.items():
        if name not in ("cls", "json"):
            try:
                sizes[name] = decode_picture(payload).size
            except PictureError as error:
                yield f"{name} {error}"
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {width}×{height}" for name, (width, height) in sizes.items())
        yield f"pictures differ in size: {listed}"
    for name, size in sizes.items():
        if side is not None and size != (side, side):
            yield f"{name} has {size[0]}×{size[1]} pixels, the manifest says {side}×{side}"
