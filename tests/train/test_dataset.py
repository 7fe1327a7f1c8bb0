import io
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from stylize.console import InputError
from stylize.files import file_sha256
from stylize.shards import Sample, read_shard, write_shard
from stylize.shards.index import write_side_files
from stylize.shards.manifest import read_manifest, write_manifest
from train import PairedShards

ShardFolderMaker = Callable[..., Path]


@pytest.mark.parametrize("codec", ["jpg", "png", "webp"])
def test_random_access_equals_sequential_reading(make_shard_folder: ShardFolderMaker, codec: str) -> None:
    shards = make_shard_folder(codec=codec, styles_per_image=2, size=None)
    dataset = PairedShards(shards, "train")
    manifest = read_manifest(shards)
    samples = [sample for path in manifest.paths(shards, "train") for sample in read_shard(path)]
    assert len(dataset) == len(samples) == 24
    for index in (23, 0, 11):
        images, label = dataset[index]
        expected = [
            np.asarray(Image.open(io.BytesIO(payload))) for payload in (samples[index].content, *samples[index].styled)
        ]
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(images.numpy(), np.stack(expected).transpose(0, 3, 1, 2))
        assert (label, str(dataset.keys[index])) == (samples[index].label, samples[index].key)
        assert torch.equal(dataset.read(index, [2]), images[2:])


def test_test_split_has_originals_only(make_shard_folder: ShardFolderMaker) -> None:
    dataset = PairedShards(make_shard_folder(), "test")
    assert dataset[0][0].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_other_colour_modes_become_rgb(make_shard_folder: ShardFolderMaker, mode: str) -> None:
    shards = make_shard_folder(train=3, codec="png")
    grey = Image.new("RGB", (16, 16), (102, 102, 102)).convert(mode)
    buffer = io.BytesIO()
    grey.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    _rewrite(shards, content=buffer.getvalue())
    images, _ = PairedShards(shards, "train")[0]
    assert images.shape == (2, 3, 16, 16)
    assert (images[0].int() - 102).abs().max() <= 2


def _rewrite(shards: Path, **changes: Any) -> None:
    """Replace the first shard's samples by three copies with the given changes, and its hash in the manifest."""
    path = shards / "train-000000.tar"
    first = next(iter(read_shard(path)))
    fields: dict[str, Any] = {"content": first.content, "styled": first.styled, "label": 0, **changes}
    write_shard(path, [Sample(f"{i:08d}", metadata={}, **fields) for i in range(3)], "png")
    _renew_hash(shards)


def _renew_hash(shards: Path) -> None:
    manifest = read_manifest(shards)
    path = shards / "train-000000.tar"
    first = replace(manifest.shards[0], bytes=path.stat().st_size, sha256=file_sha256(path))
    write_manifest(shards, replace(manifest, shards=(first, *manifest.shards[1:])))


def _flip_a_bit(shards: Path) -> None:
    path = shards / "train-000000.tar"
    payload = bytearray(path.read_bytes())
    payload[700] ^= 1  # inside the first picture, after its 512-byte header
    path.write_bytes(payload)


def _missing(shards: Path) -> None:
    (shards / "train-000000.tar").unlink()


def _no_folder(shards: Path) -> None:
    shutil.rmtree(shards)


def _cut_at_member(shards: Path) -> None:
    path = shards / "train-000000.tar"
    write_shard(path, list(read_shard(path))[:2], "png")
    _renew_hash(shards)


def _changed_spec(**changes: object) -> Callable[[Path], None]:
    def change(shards: Path) -> None:
        manifest = read_manifest(shards)
        write_manifest(shards, replace(manifest, spec={**manifest.spec, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_folder, "not a finished shard folder"),
        (_missing, "missing or differs from its manifest"),
        (_flip_a_bit, "missing or differs from its manifest"),
        (_cut_at_member, "holds 2 samples, not the 3"),
        (_changed_spec(styles_per_image=2), "has 1 stylized copy, not the 2"),
        (_changed_spec(class_names=["one"]), "label 1, but the manifest names only 1"),
        (lambda shards: _rewrite(shards, styled=()), "has 0 stylized copies"),
    ],
)
def test_damaged_folder_is_refused(
    make_shard_folder: ShardFolderMaker, damage: Callable[[Path], None], message: str
) -> None:
    shards = make_shard_folder(train=3)
    damage(shards)
    with pytest.raises(InputError, match=message):
        PairedShards(shards, "train")[0]


def test_damaged_images_name_their_sample(make_shard_folder: ShardFolderMaker) -> None:
    shards = make_shard_folder(train=3)
    _rewrite(shards, content=b"<html>")
    with pytest.raises(InputError, match="sample 00000001 has an image that is not JPEG"):
        PairedShards(shards, "train")[1]


def _png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size; beyond a thousand pixels it is only claimed."""
    buffer = io.BytesIO()
    Image.new("RGB", (min(width, 1000), min(height, 1000))).save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    whole[16:24] = struct.pack(">II", width, height)  # of the chunk IHDR, which has a checksum
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


@pytest.mark.parametrize(
    ("size", "content", "styled", "message"),
    [
        (64, (96, 80), (96, 80), "96×80 pixels, not the 64×64 of its manifest"),
        (64, (64, 64), (32, 32), "32×32 pixels, not the 64×64"),
        (64, (64, 63), (64, 63), "64×63 pixels, not the 64×64"),
        (64, (12_000, 12_000), (64, 64), "12000×12000 pixels, not the 64×64"),
        (64, (14_000, 14_000), (64, 64), "undecodable"),  # what Pillow itself takes for a bomb
        (None, (16, 16), (8, 16), "different sizes"),
        (None, (8_001, 8_000), (8_001, 8_000), "8001×8000 pixels, more than the limit of 64000000"),
        (None, (12_000, 12_000), (12_000, 12_000), "12000×12000 pixels, more than the limit"),
        (None, (14_000, 14_000), (14_000, 14_000), "undecodable"),
    ],
)
def test_sizes_are_compared_with_the_manifest_and_bounded(
    make_shard_folder: ShardFolderMaker,
    size: int | None,
    content: tuple[int, int],
    styled: tuple[int, int],
    message: str,
) -> None:
    shards = make_shard_folder(train=3, size=size)
    _rewrite(shards, content=_png(*content), styled=(_png(*styled),))
    with pytest.raises(InputError, match=f"sample 00000000 has .*{message}"):
        PairedShards(shards, "train")[0]


def test_truncated_image_is_refused(make_shard_folder: ShardFolderMaker) -> None:
    shards = make_shard_folder(train=3, codec="jpg", size=64)
    content = next(iter(read_shard(shards / "train-000000.tar"))).content
    _rewrite(shards, content=content[: len(content) // 2])
    with pytest.raises(InputError, match="undecodable image"):
        PairedShards(shards, "train")[0]


def _relabelled(table: Any) -> None:
    table["label"][0] = 1 - table["label"][0]


def _renamed(table: Any) -> None:
    table["key"][:2] = table["key"][1::-1]


def _moved(table: Any) -> None:
    table["spans"][0, 0] += (1, -1)


@pytest.mark.parametrize("edit", [_relabelled, _renamed, _moved])
def test_a_table_that_tells_wrong_of_whole_shards_is_found_out(
    make_shard_folder: ShardFolderMaker, edit: Callable[[Any], None]
) -> None:
    shards = make_shard_folder(classes=2)
    write_side_files(shards, read_manifest(shards))
    PairedShards(shards, "train").read(0, [0, 1])
    table = np.load(shards / "index-train.npy")
    edit(table)
    np.save(shards / "index-train.npy", table)
    with pytest.raises(InputError, match=r"train-000000.tar .*run `stylize index`"):
        PairedShards(shards, "train").read(0, [0, 1])


def test_a_loop_of_ones_own(make_shard_folder: ShardFolderMaker) -> None:
    """A transform sees both images of a pair, so a random flip is the same for both."""
    shards = make_shard_folder(codec="png")
    plain = PairedShards(str(shards), "train")
    flipped = PairedShards(shards, "train", transform=v2.RandomHorizontalFlip())
    batches = list(DataLoader(flipped, batch_size=8))
    assert [tuple(images.shape) for images, _ in batches] == [(8, 2, 3, 16, 16)] * 3
    assert torch.cat([labels for _, labels in batches]).tolist() == plain.labels.tolist()
    flips = set()
    for index, pair in enumerate(torch.cat([images for images, _ in batches])):
        original, _ = plain[index]
        (flip,) = [flip for flip in (False, True) if torch.equal(pair, original.flip(-1) if flip else original)]
        flips.add(flip)
    assert flips == {False, True}


def test_an_unknown_split_is_refused(make_shard_folder: ShardFolderMaker) -> None:
    with pytest.raises(InputError, match=r"'validation'.*val"):
        PairedShards(make_shard_folder(), "validation")
