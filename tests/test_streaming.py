"""Shards larger than the cache: whole ones are streamed from a real S3 server, each checked."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from stylize.console import InputError
from stylize.shards.manifest import ORIGIN_NAME, Manifest, read_manifest, write_manifest
from stylize.shards.remote import RemoteFolder, local_shards, without_pairs
from stylize.shards.upload import upload_shards
from train import PairedShards, PairedStream, TrainConfig, image_preset, train_model
from train.distributed import World
from train.loading import evaluated_shards, held_out_shards, process_context
from train.state import SaveClock
from train.streaming import StreamedBatches

URL = "s3://bucket/sets/shapes"
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def older_server_of_workers() -> None:
    """Start the process that forks workers before credentials are there, as a notebook does that sets them late."""
    process_context()


@pytest.fixture
def uploaded(store: Any, make_shard_folder: Callable[..., Path]) -> Path:
    """Return a folder of ten training shards, four samples each but for the last one, that lies behind `URL` too."""
    folder = make_shard_folder(train=39, size=32, samples_per_shard=4, styles_per_image=2)
    upload_shards(folder, URL)
    return folder


def gigabytes_of(manifest: Manifest, kept: set[str]) -> float:
    return sum(shard.bytes for shard in manifest.shards if shard.name in kept) / 1e9


@pytest.fixture
def streamed(uploaded: Path, tmp_path: Path) -> Iterator[Path]:
    """Lend the cache's folder where it holds only what is evaluated on."""
    needed = partial(evaluated_shards, fraction=0.1, seed=0)
    size = gigabytes_of(read_manifest(uploaded), needed(read_manifest(uploaded)))
    with local_shards(URL, tmp_path / "cache", size, needed=needed) as folder:
        yield folder


def tars(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.tar")}


def batches_of(folder: Path, method: str = "stylized", workers: int = 0, ranks: int = 1) -> StreamedBatches:
    config = TrainConfig(folder, "small", method, Path("out"), batch_size=6)
    held_out = held_out_shards(read_manifest(folder), 0.1, 0)
    world = World(0, ranks, torch.device("cpu"))
    return StreamedBatches(folder, held_out, image_preset("small", 32), config, world, workers)


def test_only_what_is_evaluated_on_is_downloaded_and_the_rest_as_far_as_there_is_room(
    uploaded: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(uploaded)
    needed = evaluated_shards(manifest, 0.2, seed=3)
    assert len(needed) == 2 + len([shard for shard in manifest.shards if shard.split == "test"])
    everything = {shard.name for shard in manifest.shards}
    for kept in (needed, everything, needed):
        size = gigabytes_of(manifest, kept)
        with local_shards(URL, tmp_path / "cache", size, needed=lambda _: needed) as folder:
            assert tars(folder) == kept
            assert (folder / ORIGIN_NAME).exists() == (kept == needed)
            assert len(PairedShards(folder, "test")) == len(PairedShards(uploaded, "test"))
    with (
        pytest.raises(InputError, match="raise --cache-gb"),
        local_shards(URL, tmp_path / "c", size / 2, needed=lambda _: needed),
    ):
        pass
    with local_shards(URL, tmp_path / "cache", size) as folder, pytest.raises(InputError, match="PairedStream"):
        PairedShards(folder, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own(streamed: Path, uploaded: Path, workers: int) -> None:
    batches = batches_of(streamed, workers=workers)
    held_out = held_out_shards(read_manifest(uploaded), 0.1, 0)
    (shard,) = held_out
    left = 39 - read_manifest(uploaded).shards[int(shard[6:12])].samples
    assert (batches.images, batches.steps) == (left, left // 6)
    epochs = []
    for epoch in range(1 if workers else 2):
        batches.select(epoch)
        whole = list(batches)
        assert [len(labels) for _, labels in whole] == [6] * (left // 6)
        epochs.append(torch.cat([images for images, _ in whole]))
        batches.select(epoch, first_step=2, count=2)
        assert torch.equal(torch.cat([images for images, _ in batches]), epochs[-1][12:24])
    assert workers or not torch.equal(*epochs)


def test_what_is_streamed_is_what_the_shards_hold(streamed: Path, uploaded: Path) -> None:
    samples = PairedShards(uploaded, "train")
    expected = {str(key): samples[number] for number, key in enumerate(samples.keys)}
    for place in (URL, uploaded, streamed):
        seen = {sample["__key__"]: (sample["images"], sample["cls"]) for sample in PairedStream(place, "train")}
        assert seen.keys() == expected.keys()
        assert all(torch.equal(images, expected[key][0]) for key, (images, _) in seen.items())
        assert all(label == expected[key][1] for key, (_, label) in seen.items())


def test_nodes_share_the_shards_and_have_equally_many_steps(
    streamed: Path, uploaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    keys = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        keys.append([sample["__key__"] for sample in PairedStream(streamed, "train")])
        batches = batches_of(streamed, ranks=2)
        assert len(list(batches)) == batches.steps == 2
    assert sorted(chain(*keys)) == sorted(PairedShards(uploaded, "train").keys)


def test_the_twin_is_a_pipeline_of_webdataset(uploaded: Path) -> None:
    pairs = PairedStream(uploaded, "train", seed=1).shuffle(10).to_tuple("images", "cls").batched(13, partial=False)
    first, second = list(pairs), list(pairs)
    assert [tuple(images.shape) for images, _ in first] == [(13, 3, 3, 32, 32)] * 3
    assert all(labels.tolist() != [0] * 13 for _, labels in first)
    assert not torch.equal(first[0][0], second[0][0])
    keys = [[sample["__key__"] for sample in PairedStream(uploaded, "train", seed=seed)] for seed in (1, 1, 2)]
    assert keys[0] == keys[1] != keys[2]


def test_training_resumes_within_an_epoch_to_the_same_weights(
    streamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = partial(TrainConfig, streamed, "small", "pairing", epochs=2, batch_size=6, dtype="fp32", device="cpu")
    train_model(configure(out=tmp_path / "whole", workers=0))
    steps = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(SaveClock, "due", lambda clock: next(steps) == 7)  # in the second epoch of five steps
        patch.setattr(SaveClock, "saved", lambda clock, seconds: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train_model(configure(out=tmp_path / "parts", workers=0))
    with pytest.raises(InputError, match="--workers of streamed shards 0 is now 2"):
        train_model(configure(out=tmp_path / "parts", workers=2))
    train_model(configure(out=tmp_path / "parts", workers=0))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two


def test_a_byte_that_was_changed_behind_the_url_is_never_used(store: Any, streamed: Path, uploaded: Path) -> None:
    behind = min({shard.name for shard in read_manifest(uploaded).entries("train")} - tars(streamed))
    payload = bytearray((uploaded / behind).read_bytes())
    payload[600] ^= 1
    store.put_object(Bucket="bucket", Key=f"sets/shapes/{behind}", Body=bytes(payload))
    with pytest.raises(InputError, match=rf"{behind} differs from its manifest"):
        list(batches_of(streamed))
    store.delete_object(Bucket="bucket", Key=f"sets/shapes/{behind}")
    with pytest.raises(InputError, match=rf"{behind} is not there"):
        list(batches_of(streamed, workers=1))


def test_a_shard_is_one_request(streamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    fetch = RemoteFolder.fetch

    def counted(folder: RemoteFolder, name: str, *others: Any) -> None:
        fetched.append(name)
        fetch(folder, name, *others)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    list(batches_of(streamed))
    behind = {shard.name for shard in read_manifest(streamed).entries("train")} - tars(streamed)
    assert sorted(fetched) == sorted(behind)


def test_what_cannot_be_streamed_is_said(
    store: Any, streamed: Path, make_shard_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'wrong_partner' .*raise --cache-gb"):
        batches_of(streamed, "wrong_partner")
    with pytest.raises(InputError, match=r"9 training shards cannot fill a batch of 6 on each of 9 processes"):
        batches_of(streamed, ranks=9)
    with pytest.raises(InputError, match=r"1 training shard .*cannot be split"):
        held_out_shards(read_manifest(make_shard_folder("one", train=3)), 0.1, 0)
    with pytest.raises(InputError, match="no shard of the split 'val'"):
        PairedStream(streamed, "val")


def test_a_split_for_validation_is_used(store: Any, make_shard_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_shard_folder("three", size=32)
    manifest = read_manifest(folder)
    *shards, last = manifest.shards
    (folder / last.name).rename(folder / "val-000000.tar")
    spec = {**manifest.spec, "counts": {"train": 24, "val": last.samples, "test": 12 - last.samples}}
    manifest = Manifest(spec, (*shards, replace(last, name="val-000000.tar", split="val")))
    write_manifest(folder, manifest)
    upload_shards(folder, URL)
    size = gigabytes_of(manifest, without_pairs(manifest))
    with local_shards(
        URL, tmp_path / "cache", size, needed=partial(evaluated_shards, fraction=0.1, seed=0)
    ) as streamed:
        assert tars(streamed) == without_pairs(manifest)
        config = TrainConfig(streamed, "small", "pairing", tmp_path / "out", epochs=1, batch_size=6, workers=0)
        metrics = train_model(config)
    assert (metrics["training_images"], metrics["validation_images"]) == (24, last.samples)
