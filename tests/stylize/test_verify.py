import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylize.engine import Pixels
from stylize.errors import InputError
from stylize.manifest import read_manifest, write_manifest
from stylize.shards import Sample, file_sha256, read_shard, write_shard
from stylize.verify import verify_shards

SHARD = "train-000001.tar"


def rewrite(folder: Path, change: Callable[[list[Sample]], list[Sample]], codec: str = "jpg") -> None:
    """Change the samples of a shard, and let the manifest agree with its size and hash."""
    path = folder / SHARD
    write_shard(path, change(list(read_shard(path))), codec)
    manifest = read_manifest(folder)
    shards = tuple(
        replace(shard, bytes=path.stat().st_size, sha256=file_sha256(path)) if shard.name == SHARD else shard
        for shard in manifest.shards
    )
    write_manifest(folder, replace(manifest, shards=shards))


def first(**changes: Any) -> Callable[[list[Sample]], list[Sample]]:
    return lambda samples: [replace(samples[0], **changes), *samples[1:]]


def test_a_fresh_folder_has_no_defects(finished: Path) -> None:
    assert verify_shards(finished) == []


@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_bit_anywhere_is_seen(copied: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = sorted(copied.glob("*.tar"))[seed]
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    assert f"{path.name}: SHA-256 differs from the manifest's" in verify_shards(copied)


def test_a_cut_between_samples_is_seen(copied: Path) -> None:
    samples = list(read_shard(copied / SHARD))
    write_shard(copied / SHARD, samples[:3])
    defects = verify_shards(copied)
    assert f"{SHARD}: 3 readable samples, the manifest says 5" in defects


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(label=7), "label 7, but there are 2 classes"),
        (first(styled=()), "0 stylized copies instead of 1"),
        (first(content=b"<html>"), "content is not a picture"),
        (first(styled=(b"",)), "copy 0 is not a picture"),
        (lambda samples: samples[1:], "4 readable samples, the manifest says 5"),
        (lambda samples: [*samples[1:], samples[1]], "holds key"),
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
    assert "content and copies differ in size" in defect
    manifest = read_manifest(copied)
    write_manifest(copied, replace(manifest, spec={**manifest.spec, "size": 16}))
    assert sum("the manifest says 16 × 16" in defect for defect in verify_shards(copied)) == 16


def test_a_sample_in_two_shards_is_seen(copied: Path) -> None:
    other = next(read_shard(copied / "train-000000.tar"))
    rewrite(copied, lambda samples: [other, *samples[1:]])
    assert verify_shards(copied) == [f"sample train {other.key} stands in more than one shard"]


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
        "failures.jsonl: 2 failures recorded, the manifest counts 0",
        "train-000000.tar: missing",
        f"{SHARD}: 7 bytes, the manifest says",
        "cannot be read",
        "test-000000.tar: SHA-256 differs",
    ):
        assert message in found


def test_counts_of_the_manifest_are_checked(copied: Path) -> None:
    manifest = read_manifest(copied)
    shards = [asdict(shard) for shard in manifest.shards]
    document = json.loads((copied / "manifest.json").read_text())
    shards[0]["samples"] += 1
    shards[1]["bytes"] += 1
    (copied / "manifest.json").write_text(json.dumps({**document, "shards": shards, "failures": 3}))
    found = verify_shards(copied)
    assert len(found) == 3


def test_a_folder_without_manifest_is_refused(copied: Path) -> None:
    (copied / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a finished shard folder"):
        verify_shards(copied)
