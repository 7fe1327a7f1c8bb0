"""Shards from strangers: every hostile member and every damaged place is named, and nothing of them is obeyed."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.files import file_sha256
from stylize.shards.manifest import read_manifest, write_manifest
from stylize.shards.shard import read_shard, sample_members
from stylize.shards.side_files import list_shards
from stylize.shards.verify import BLOCK, scan_tar, verify_shards

SHARD = "train-000001.tar"
HEADERS: dict[str, tuple[bytes, str, str]] = {
    "symbolic link": (tarfile.SYMTYPE, "00000001.content.jpg", ", a symbolic link"),
    "hard link": (tarfile.LNKTYPE, "00000001.content.jpg", ", a hard link"),
    "device": (tarfile.CHRTYPE, "00000001.content.jpg", ", a device"),
    "block device": (tarfile.BLKTYPE, "00000001.content.jpg", ", a device"),
    "pipe": (tarfile.FIFOTYPE, "00000001.content.jpg", ", a pipe"),
    "folder": (tarfile.DIRTYPE, "00000001.content.jpg", ", a folder"),
    "sparse": (tarfile.GNUTYPE_SPARSE, "00000001.content.jpg", ", a sparse file"),
    "long name": (tarfile.GNUTYPE_LONGNAME, "00000001.content.jpg", ", a special member"),
    "pax": (tarfile.XHDTYPE, "00000001.content.jpg", ", a special member"),
    "absolute": (tarfile.REGTYPE, "/tmp/00000001.cls", ""),
    "parent": (tarfile.REGTYPE, "../00000001.cls", ""),
    "pipe url": (tarfile.REGTYPE, "pipe:touch obeyed", ""),
    "pickle": (tarfile.REGTYPE, "00000001.pkl", ""),
    "torch": (tarfile.REGTYPE, "00000001.pth", ""),
    "control characters": (tarfile.REGTYPE, "00000001.\x1b[31mcls", ""),
    "no text": (tarfile.REGTYPE, "\udcff.cls", ""),
}


class Obeyed:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch obeyed",)


def block(kind: bytes, name: str, payload: bytes = b"") -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.size, header.linkname = kind, len(payload), "/etc/passwd" if not payload else ""
    return header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape") + payload + bytes(-len(payload) % BLOCK)


def accept(folder: Path, data: bytes) -> None:
    """Write a shard, and let the manifest agree with its size and hash."""
    (folder / SHARD).write_bytes(data)
    manifest = read_manifest(folder)
    entries = {entry.name: entry for entry in manifest.shards}
    entries[SHARD] = replace(entries[SHARD], bytes=len(data), sha256=file_sha256(folder / SHARD))
    manifest = replace(manifest, shards=tuple(entries.values()))
    write_manifest(folder, manifest)
    for name, payload in list_shards(manifest).items():
        (folder / name).write_bytes(payload)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_member_is_named_and_not_obeyed(copied: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(copied.parent)
    before = sorted(copied.parent.rglob("*"))
    tar_type, name, remark = HEADERS[kind]
    payload = pickle.dumps(Obeyed()) if tar_type == tarfile.REGTYPE else b""
    accept(copied, block(tar_type, name, payload) + (copied / SHARD).read_bytes())
    assert verify_shards(copied) == [f"{SHARD}: foreign member {name!r}{remark}"]
    if kind != "pax":  # `tarfile` reads an empty one as nothing
        with pytest.raises(InputError, match=r"foreign member|cannot be read|incomplete|twice"):
            list(read_shard(copied / SHARD))
    assert sorted(copied.parent.rglob("*")) == before


def test_all_defects_of_one_shard_are_named(copied: Path) -> None:
    one, two, three, four, five = read_shard(copied / SHARD)
    parts = {sample.key: dict(sample_members(sample, "jpg")) for sample in (one, two, three, four, five)}
    del parts[two.key][f"{two.key}.styled.jpg"]
    parts[three.key][f"{three.key}.content.jpg"] = b"<html>"
    parts[four.key][f"{four.key}.cls"] = b"cat"
    parts[five.key][f"{five.key}.json"] = b"[" * 100_000
    tar = {key: b"".join(block(tarfile.REGTYPE, *part) for part in of.items()) for key, of in parts.items()}
    pieces = [block(tarfile.FIFOTYPE, "a"), tar[one.key], b"garbage!" * 200, bytes(448), tar[two.key], bytes(BLOCK)]
    pieces += [tar[three.key], block(tarfile.REGTYPE, "x.pkl", b"x"), tar[four.key], tar[one.key], tar[five.key]]
    hostile = tarfile.TarInfo("00000077.cls")
    hostile.size = 8**11 - 1
    pieces += [hostile.tobuf(tarfile.USTAR_FORMAT), tar[five.key]]
    accept(copied, b"".join(pieces))
    expected = [
        "foreign member 'a', a pipe",
        "no valid header at byte",
        f"sample {two.key}: has the members content.jpg, cls, json instead of",
        "no valid header at byte",
        f"sample {three.key}: content.jpg is not a picture",
        "foreign member 'x.pkl'",
        f"sample {four.key}: label b'cat', which is not a number",
        f"sample {one.key}: stands in {SHARD} already",
        f"sample {five.key}: metadata that are not JSON",
        "member '00000077.cls' claims 8589934591 bytes",
        f"sample {five.key}: stands in {SHARD} already",
        f"sample {five.key}: metadata that are not JSON",
        "ends without the mark that ends a tar",
        "7 samples, the manifest says 5",
    ]
    found = verify_shards(copied)
    assert len(found) == len(expected)
    for message in expected:
        assert any(defect.startswith(f"{SHARD}: {message}") for defect in found), message


def test_a_negative_size_does_not_lead_back(copied: Path) -> None:
    hostile = tarfile.TarInfo("00000077.cls")
    hostile.size = -2 * BLOCK
    whole = (copied / SHARD).read_bytes()
    accept(copied, hostile.tobuf(tarfile.GNU_FORMAT) + whole)
    (defect,) = verify_shards(copied)
    assert "member '00000077.cls' claims -1024 bytes" in defect


def test_the_scan_agrees_with_tarfile_on_a_whole_shard(finished: Path) -> None:
    for path in finished.glob("*.tar"):
        defects: list[str] = []
        with tarfile.open(path) as tar:
            expected = [(member.name, member.offset_data, member.size) for member in tar]
        found = [
            (member.name, member.span.offset, member.span.size)
            for member in scan_tar(io.BytesIO(path.read_bytes()), defects)
        ]
        assert (found, defects) == (expected, [])
