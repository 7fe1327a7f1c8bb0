"""Folders checked: every defect is named, those of strangers' shards too, of which nothing is obeyed."""

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylize.console import InputError, counted
from stylize.files import file_sha256
from stylize.networks.stylizer import Pixels
from stylize.shards import Sample, read_shard, sample_members, write_shard
from stylize.shards.index import describe_shard, list_shards
from stylize.shards.manifest import read_manifest, write_manifest
from stylize.shards.verify import BLOCK, quick_defects, scan_tar, verify_shards

SHARD = "train-000001.tar"


def rewrite(folder: Path, change: Callable[[list[Sample]], list[Sample]], codec: str = "jpg") -> None:
    """Change the samples of a shard, and let the manifest agree with its size and hash."""
    path = folder / SHARD
    for name in [*describe_shard(path), "wids-train.json", "index-train.npy"]:
        (folder / name).unlink()
    write_shard(path, change(list(read_shard(path))), codec)
    manifest = read_manifest(folder)
    shards = tuple(
        replace(shard, bytes=path.stat().st_size, sha256=file_sha256(path)) if shard.name == SHARD else shard
        for shard in manifest.shards
    )
    write_manifest(folder, replace(manifest, shards=shards))


def first(**changes: Any) -> Callable[[list[Sample]], list[Sample]]:
    return lambda samples: [replace(samples[0], **changes), *samples[1:]]


def defects_or_error(folder: Path) -> list[str]:
    try:
        return verify_shards(folder)
    except InputError as error:
        return [str(error).removeprefix(f"{folder}/")]


def test_a_fresh_folder_has_no_defects(finished: Path) -> None:
    assert verify_shards(finished) == []


@pytest.mark.parametrize("name", ["train-000000.tar", "test-000000.tar", "manifest.json", "failures.jsonl"])
def test_one_flipped_bit_anywhere_is_seen(copied: Path, name: str) -> None:
    (copied / "failures.jsonl").write_text('{"split": "test", "path": "a.png", "reason": "is odd"}\n')
    write_manifest(copied, replace(read_manifest(copied), failures_sha256=file_sha256(copied / "failures.jsonl")))
    assert verify_shards(copied) == []
    path, rng = copied / name, np.random.default_rng(len(name))
    whole = path.read_bytes()
    for position in rng.integers(len(whole), size=12):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert any(defect.startswith(name) for defect in defects_or_error(copied)), position


def test_a_cut_at_and_inside_member_boundaries_is_seen(copied: Path) -> None:
    path = copied / SHARD
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        offsets = [member.offset for member in tar]
    samples = {0: 0, 3: 1, 4: 1, 7: 2, 16: 4}  # of which something is left after so many members
    for members, left in samples.items():
        for extra in (0, 100, 512, 515):
            path.write_bytes(whole[: offsets[members] + extra])
            defects = verify_shards(copied)
            assert f"{SHARD}: ends without the mark that ends a tar" in defects
            assert f"{SHARD}: {counted(left, 'sample')}, the manifest says 5" in defects
            assert any(f"{SHARD}: SHA-256 differs" in defect for defect in defects)
        cut_payloads = [defect for defect in defects if "claims" in defect]
        assert len(cut_payloads) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(label=7), "label 7 of 2 classes"),
        (first(styled=()), "has the members content.jpg, cls, json instead of content.jpg, styled.jpg, cls, json"),
        (first(content=b"<html>"), "content.jpg is not a picture"),
        (first(styled=(b"",)), "styled.jpg is not a picture"),
        (first(metadata=[]), "metadata that are not a JSON object"),
        (first(metadata={"alpha": 1.0, "styles": ["style0"]}), "metadata do not name the source and its SHA-256"),
        (first(metadata={"alpha": 0.5}), "alpha 0.5, the manifest says 1.0"),
        (first(metadata={"styles": [["style0"]]}), "styles [['style0']], not 1 of those"),
        (first(metadata={"styles": ["plaid"]}), "styles ['plaid'], not 1 of those"),
        (lambda samples: samples[1:], "4 samples, the manifest says 5"),
        (lambda samples: [*samples[1:], samples[1]], f"stands in {SHARD} already"),
        (lambda samples: [samples[1], *samples[1:]], f"stands in {SHARD} already"),
        (first(key="99999999"), None),
    ],
)
def test_defects_that_the_hash_does_not_tell(
    copied: Path, change: Callable[[list[Sample]], list[Sample]], message: str | None
) -> None:
    rewrite(copied, change)
    found = verify_shards(copied)
    if message is None:
        assert found == []
    else:
        assert [defect for defect in found if defect.startswith(SHARD) and message in defect]


def test_sizes_are_compared(copied: Path, noise: Callable[..., Pixels], encode: Callable[..., bytes]) -> None:
    rewrite(copied, first(styled=(encode(noise(0, 16, 32), "JPEG"),)))
    (defect,) = verify_shards(copied)
    assert "pictures differ in size: content.jpg 32×32, styled.jpg 32×16" in defect
    manifest = read_manifest(copied)
    write_manifest(copied, replace(manifest, spec={**manifest.spec, "size": 16}))
    assert sum("the manifest says 16×16" in defect for defect in verify_shards(copied)) == 28


def test_a_sample_in_two_shards_is_seen(copied: Path) -> None:
    other = next(read_shard(copied / "train-000000.tar"))
    rewrite(copied, lambda samples: [other, *samples[1:]])
    assert verify_shards(copied) == [f"{SHARD}: sample {other.key}: stands in train-000000.tar already"]


def test_swapped_shards_are_seen(copied: Path) -> None:
    shutil.move(copied / SHARD, copied / "kept")
    shutil.move(copied / "train-000000.tar", copied / SHARD)
    shutil.move(copied / "kept", copied / "train-000000.tar")
    assert {defect for defect in verify_shards(copied) if "SHA-256" in defect} == {
        f"{name}: SHA-256 differs from the manifest's" for name in ("train-000000.tar", SHARD)
    }


def test_every_defect_is_named_not_only_the_first(copied: Path) -> None:
    (copied / "train-000000.tar").unlink()
    (copied / SHARD).write_bytes(b"garbage")
    (copied / "notes.txt").write_text("foreign")
    (copied / "failures.jsonl").write_bytes(b"{}\n\xff\n")
    with open(copied / "test-000000.tar", "ab") as file:
        file.write(b"tail")
    found = "\n".join(verify_shards(copied))
    for message in (
        "notes.txt: not named in the manifest",
        "failures.jsonl: differs from what the manifest records",
        "train-000000.tar: missing",
        f"{SHARD}: 7 bytes, the manifest says",
        f"{SHARD}: ends without the mark",
        f"{SHARD}: 0 samples, the manifest says 5",
        "test-000000.tar: SHA-256 differs",
    ):
        assert message in found


def test_a_quick_look_compares_names_and_sizes(copied: Path) -> None:
    assert quick_defects(copied) == []
    damaged = bytearray((copied / SHARD).read_bytes())
    damaged[1000] ^= 1
    (copied / SHARD).write_bytes(damaged)
    assert quick_defects(copied) == []
    (copied / SHARD).write_bytes(damaged[:-1])
    (copied / "test-000000.tar").unlink()
    (copied / "notes.txt").touch()
    assert quick_defects(copied) == [
        "notes.txt: not named in the manifest",
        f"{SHARD}: {len(damaged) - 1} bytes, the manifest says {len(damaged)}",
        "test-000000.tar: missing",
    ]


def test_counts_of_the_manifest_are_checked(copied: Path) -> None:
    (copied / "wids-train.json").unlink()
    manifest = read_manifest(copied)
    shards = [asdict(shard) for shard in manifest.shards]
    document = json.loads((copied / "manifest.json").read_text())
    shards[0]["samples"] += 1
    shards[1]["bytes"] += 1
    (copied / "manifest.json").write_text(json.dumps({**document, "shards": shards, "failures": 3}))
    assert verify_shards(copied) == [
        "manifest.json: changed since it was written",
        "manifest.json: 20 samples and failures of 16 images",
        "manifest.json: 13 samples of 12 images in train",
        "train-000000.tar: 5 samples, the manifest says 6",
        f"{SHARD}: {shards[1]['bytes'] - 1} bytes, the manifest says {shards[1]['bytes']}",
    ]


def test_a_folder_without_manifest_is_refused(copied: Path) -> None:
    (copied / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a finished shard folder"):
        verify_shards(copied)


def test_a_shard_that_cannot_be_read_is_a_defect(copied: Path) -> None:
    (copied / SHARD).unlink()
    (copied / SHARD).symlink_to("/proc/self/mem")  # opens, and fails to be read
    assert any(defect.startswith(f"{SHARD}: cannot be read") for defect in verify_shards(copied))


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
