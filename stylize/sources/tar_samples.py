"""The labelled pictures of one tar of a WebDataset that anybody may have made; hostile tars are refused."""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from stylize.errors import InputError
from stylize.sources.formats import PICTURE_SUFFIXES

LABEL_KEYS = ("label", "cls", "class")  # of a sample's JSON, where it has no `cls` member
MAX_METADATA = 10_000_000  # bytes of a label or a JSON


@dataclass(frozen=True, slots=True)
class TarImage:
    """A labelled picture of a sample: its member's name in a tar, and where its bytes lie in that."""

    tar: Path
    name: str
    offset: int
    size: int
    label: str | int


def tar_images(tar: Path) -> Iterator[TarImage]:
    """Yield a tar's labelled pictures; refuse one with members that no honest data set has, or with a key twice."""
    seen: set[str] = set()
    try:
        with tarfile.open(tar, "r:") as archive:
            for key, members in groupby(_regular(tar, archive), key=lambda member: _key(member.name)):
                if key in seen:
                    raise InputError(f"{tar} holds the key {key!r} twice: its samples cannot be told apart.")
                seen.add(key)
                yield _image(tar, key, archive, {_suffix(member.name): member for member in members})
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"The tar {tar} cannot be read ({error}): fetch it again, uncompressed.") from None


def _regular(tar: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        parts = PurePosixPath(member.name).parts
        leads_out = member.name.startswith("/") or ".." in parts or not member.name.isprintable()
        if member.isdir() and not leads_out:
            continue
        if not member.isreg() or member.issparse() or member.size < 0 or leads_out:
            raise InputError(f"{tar} holds the foreign member {member.name!r}: do not use this tar.")
        yield member


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _image(tar: Path, key: str, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> TarImage:
    picture = next((m for suffix, m in members.items() if f".{suffix.rpartition('.')[2]}" in PICTURE_SUFFIXES), None)
    if picture is None:
        raise InputError(f"{tar}: sample {key} has no picture: give a data set of pictures.")
    return TarImage(tar, picture.name, picture.offset_data, picture.size, _label(tar, key, archive, members))


def _label(tar: Path, key: str, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> str | int:
    if "cls" in members:
        text = _read(archive, members["cls"]).decode("utf-8", "replace").strip()
        value: Any = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text
    else:
        metadata = json.loads(_read(archive, members["json"])) if "json" in members else {}
        held = metadata if isinstance(metadata, dict) else {}
        value = next((held[name] for name in LABEL_KEYS if name in held), None)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value in ("", None) or str(value)[0] == "-":
        wanted = ", ".join(LABEL_KEYS)
        raise InputError(f"{tar}: sample {key} has no label: it needs a member cls, or one of {wanted} in its json.")
    return value


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read(MAX_METADATA) if file else b""
