"""`stylize verify`: read everything again, in a folder or behind a URL, and name every defect."""

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from stylize.console import InputError, counted
from stylize.files import file_sha256
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, ShardEntry, inspect_manifest
from stylize.shards.remote import shard_files
from stylize.shards.shard import LABEL, MEMBER_NAME, Span, image_roles, open_shard, parse_metadata, read_span
from stylize.shards.side_files import index_defects, list_defects, shard_side_defects, side_names

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A member as its header describes it; `kind` is None for a regular file, else what it is instead."""

    name: str
    kind: str | None
    span: Span


def scan_tar(file: BinaryIO, defects: list[str]) -> Iterator[Member]:
    """Yield every member of an uncompressed tar whose payload is there; what else it holds is appended to `defects`.

    After a defect the scan goes on at the next block that is a valid header. Only headers are read.
    """
    end = file.seek(0, os.SEEK_END)
    offset = 0
    while offset + BLOCK <= end:
        header = _header(file, offset)
        span = Span(offset + BLOCK, header.size if header else 0)
        if header and 0 <= span.size <= end - span.offset:
            kind = None if header.type in tarfile.REGULAR_TYPES[:2] else _KINDS.get(header.type, "a special member")
            yield Member(header.name, kind, span)
            offset = span.offset + -(-span.size // BLOCK) * BLOCK
            continue
        following = _next_header(file, span.offset, end)
        if header is None and following == end and _is_zero(file, offset):
            return  # the mark that ends a tar
        if header:
            defects.append(f"member {header.name!r} claims {counted(span.size, 'byte')}, {end - span.offset} left")
        else:
            defects.append(f"no valid header at byte {offset}")
        offset = following
    defects.append("ends without the mark that ends a tar")


def _header(file: BinaryIO, offset: int) -> tarfile.TarInfo | None:
    file.seek(offset)
    try:
        return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None


def _next_header(file: BinaryIO, offset: int, end: int) -> int:
    """Return where the next valid header begins, `end` where there is none."""
    return next((start for start in range(offset, end - BLOCK + 1, BLOCK) if _header(file, start)), end)


def _is_zero(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    return file.read(BLOCK) == _ZEROS


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
    codec = manifest.spec.get("codec")
    expected = [*(f"{role}.{codec}" for role in image_roles(manifest.copies(split))), "cls", "json"]
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
    alpha = manifest.spec.get("alpha")  # null where samples differ or it is unknown
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


def verify_shards(shards: str | Path) -> list[str]:
    """Check a folder, or that behind a URL, against its manifest: files, hashes, pairs, labels, pictures.

    Returns every defect of every shard, also those after damaged places; an empty list if all is right. Behind a URL,
    files that the manifest does not name are not found: web servers do not list them.
    Raises `InputError` where there is no manifest to check against.
    """
    with shard_files(shards) as files:
        manifest, defects = _manifest_and_defects(files.folder)
        places: Places = {}
        for shard in manifest.shards:
            try:
                with files.lend(shard) as path:
                    found = [f"{shard.name}: {defect}" for defect in shard_defects(path, manifest, shard, places)]
                    defects += found or shard_side_defects(path)
            except FileNotFoundError:
                defects.append(f"{shard.name}: missing")
            except (InputError, OSError) as error:
                defects.append(f"{shard.name}: cannot be read ({error})")
        return defects or list(index_defects(files.folder, manifest))


def quick_defects(directory: Path) -> list[str]:
    """Return what can be told of a folder without reading its shards: its manifest, its files and their sizes.

    Raises `InputError` where there is no manifest to check against.
    """
    manifest, defects = _manifest_and_defects(directory)
    for shard in manifest.shards:
        path = directory / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            defects.append(f"{shard.name}: missing")
        elif size != shard.bytes:
            defects.append(f"{shard.name}: {counted(size, 'byte')}, the manifest says {shard.bytes}")
    return defects


def _manifest_and_defects(directory: Path) -> tuple[Manifest, list[str]]:
    """Return a folder's manifest, and what is wrong in it and with the other files beside the shards."""
    manifest, wrong = inspect_manifest(directory)
    return manifest, [*(f"{MANIFEST_NAME}: {defect}" for defect in wrong), *_folder_defects(directory, manifest)]


def _folder_defects(directory: Path, manifest: Manifest) -> Iterator[str]:
    named = {shard.name for shard in manifest.shards}
    present = {path.name for path in directory.iterdir()}
    for name in sorted(present - named - side_names(manifest) - {MANIFEST_NAME, FAILURES_NAME, ".gitignore"}):
        yield f"{name}: not named in the manifest"
    failures = directory / FAILURES_NAME
    if (file_sha256(failures) if failures.is_file() else None) != manifest.failures_sha256:
        yield f"{FAILURES_NAME}: differs from what the manifest records"
    yield from list_defects(directory, manifest)
