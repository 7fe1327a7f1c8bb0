"""Shards larger than the cache: their samples are read in parts from a real S3 server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from stylize.console import InputError
from stylize.shards.index import ORIGIN_NAME, write_side_files
from stylize.shards.manifest import Manifest, read_manifest
from stylize.shards.remote import local_shards
from stylize.shards.upload import upload_shards
from train import TrainConfig, train_model
from train.loading import process_context
from train.pairs import PairedShards

URL = "s3://bucket/sets/shapes"
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def older_server_of_workers() -> None:
    """Start the process that forks workers before credentials are there, as a notebook does that sets them late."""
    process_context(1)


@pytest.fixture
def uploaded(store: Any, make_shard_folder: Callable[..., Path]) -> Path:
    folder = make_shard_folder(styles_per_image=2)
    write_side_files(folder, read_manifest(folder))
    upload_shards(folder, URL)
    return folder


def gigabytes_of(manifest: Manifest, shards: int) -> float:
    return sum(shard.bytes for shard in manifest.shards[:shards]) / 1e9


def tars(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar"))


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_samples_that_stay_behind_are_read_the_same(uploaded: Path, tmp_path: Path, kept: int) -> None:
    manifest = read_manifest(uploaded)
    with local_shards(URL, tmp_path / "cache", gigabytes_of(manifest, kept)) as folder:
        assert tars(folder) == sorted(shard.name for shard in manifest.shards[:kept])
        for split in ("train", "test"):
            ours, theirs = PairedShards(folder, split), PairedShards(uploaded, split)
            ours.fetch(range(5), 1)  # fewer images than are read
            for index in range(len(theirs)):
                assert torch.equal(ours[index][0], theirs[index][0])
                assert ours[index][1] == theirs[index][1]


def test_the_cache_may_grow_and_shrink(uploaded: Path, tmp_path: Path) -> None:
    manifest = read_manifest(uploaded)
    for kept in (2, len(manifest.shards), 1):
        with local_shards(URL, tmp_path / "cache", gigabytes_of(manifest, kept)) as folder:
            assert tars(folder) == sorted(shard.name for shard in manifest.shards[:kept])
            assert (folder / ORIGIN_NAME).exists() == (kept < len(manifest.shards))


@pytest.mark.parametrize("method", ["pairing", "wrong_partner"])
def test_training_gives_the_same_model(uploaded: Path, tmp_path: Path, method: str) -> None:
    configure = partial(TrainConfig, arch="mobilenet_v3_small", method=method, epochs=1, batch_size=6)
    train_model(configure(uploaded, out=tmp_path / "near", workers=0))
    with local_shards(URL, tmp_path / "cache", gigabytes_of(read_manifest(uploaded), 1)) as folder:
        train_model(configure(folder, out=tmp_path / "far", workers=1))
    near, far = ((tmp_path / name / "metrics.csv").read_text().splitlines()[1].split(",") for name in ("near", "far"))
    assert near[:8] == far[:8]  # what follows are speeds


@pytest.mark.parametrize("place", ["image", "label"])
def test_a_byte_that_was_changed_behind_the_url_is_never_used(
    store: Any, uploaded: Path, tmp_path: Path, place: str
) -> None:
    shard = next(shard.name for shard in read_manifest(uploaded).shards if shard.split == "train")
    with local_shards(URL, tmp_path / "cache", 0) as folder:
        samples = PairedShards(folder, "train")
        if place == "image":
            payload = bytearray((uploaded / shard).read_bytes())
            payload[int(samples.index.spans[3, 1].sum()) - 1] ^= 1  # of the first copy
            store.put_object(Bucket="bucket", Key=f"sets/shapes/{shard}", Body=bytes(payload))
        else:
            samples.index.labels[3] ^= 1
        samples.fetch(range(8), 3)
        assert samples.read(2, [0, 1, 2]).shape == (3, 3, 16, 16)
        with pytest.raises(InputError, match=rf"{shard} is missing or differs from its manifest"):
            samples.read(3, [0, 1])


def test_what_streaming_needs_is_said(store: Any, make_shard_folder: Callable[..., Path], tmp_path: Path) -> None:
    upload_shards(make_shard_folder("bare"), URL)
    with (
        pytest.raises(InputError, match=r"larger than the cache.*index-.*not there.*raise --cache-gb, or run"),
        local_shards(URL, tmp_path / "cache", 0),
    ):
        pass


def test_a_store_that_is_gone_is_said(store: Any, uploaded: Path, tmp_path: Path) -> None:
    with local_shards(URL, tmp_path / "cache", 0) as folder:
        samples = PairedShards(folder, "train")
        for shard in read_manifest(uploaded).shards:
            store.delete_object(Bucket="bucket", Key=f"sets/shapes/{shard.name}")
        with pytest.raises(InputError, match=r"s3://bucket/sets/shapes is not there"):
            samples.read(0, [0])
