import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from stylize.console import InputError, plain_errors
from train import PairedShards, TrainConfig, image_preset
from train.dataset import hashed, shared
from train.distributed import loading_workers
from train.loading import EpochBatches, TrainingViews, split_validation, training_loader

ShardFolderMaker = Callable[..., Path]
ROOT = Path(train.__file__).parents[1]


def _epochs(samples: PairedShards, workers: int) -> list[torch.Tensor]:
    batches = EpochBatches(np.arange(len(samples)), 6, seed=5)
    pairs = TrainingViews(samples, np.arange(len(samples)), image_preset("auto", samples.size), 5, "copy")
    loader = training_loader(pairs, batches, workers, pin_memory=False)
    result = []
    for epoch in range(2):
        batches.select(epoch)
        result += [tensor for batch in loader for tensor in batch]
    return result


def test_workers_change_nothing_and_epochs_differ(make_shard_folder: ShardFolderMaker) -> None:
    samples = PairedShards(make_shard_folder(styles_per_image=3), "train")
    alone, helped = _epochs(samples, 0), _epochs(samples, 2)
    assert len(alone) == 16
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert not torch.equal(alone[0], alone[8])


def test_every_copy_is_chosen_and_belongs_to_its_original(make_shard_folder: ShardFolderMaker) -> None:
    samples = PairedShards(make_shard_folder(styles_per_image=3), "train")
    pairs = TrainingViews(samples, np.arange(len(samples)), image_preset("small", 16), 0, "copy")
    chosen = set()
    for epoch in range(10):
        views, labels = pairs[(epoch, [2, 4])]
        original, styled = views[1]
        (copy,) = [k for k in range(3) if torch.equal(styled, 255 - original // (k + 1))]
        chosen.add(copy)
        assert labels.tolist() == [2, 4 % 3]
    assert chosen == {0, 1, 2}


def test_without_styled_there_is_one_view_with_the_same_crop(make_shard_folder: ShardFolderMaker) -> None:
    samples = PairedShards(make_shard_folder(), "train")
    both, one = (
        TrainingViews(samples, np.arange(len(samples)), image_preset("small", 16), 0, views)
        for views in ("copy", "original")
    )
    assert torch.equal(torch.as_tensor(one[(0, [3, 5])][0]), torch.as_tensor(both[(0, [3, 5])][0])[:, :1])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_sentence(make_shard_folder: ShardFolderMaker, workers: int) -> None:
    shards = make_shard_folder()
    samples = PairedShards(shards, "train")
    (shards / "train-000001.tar").unlink()
    batches = EpochBatches(np.arange(len(samples)), 24, seed=0)
    pairs = TrainingViews(samples, np.arange(len(samples)), image_preset("small", 16), 0, "copy")
    with pytest.raises(InputError) as caught:
        list(plain_errors(training_loader(pairs, batches, workers, pin_memory=False)))
    assert str(caught.value).startswith("Shard ")
    assert "\n" not in str(caught.value)


def read_by_one_worker(shards: Path) -> tuple[Iterator[object], BaseProcess]:
    """Return what is left after the first batch, and the worker that loads it."""
    samples = PairedShards(shards, "train")
    batches = EpochBatches(np.arange(len(samples)), 6, seed=0)
    views = TrainingViews(samples, np.arange(len(samples)), image_preset("small", 16), 0, "copy")
    earlier = set(multiprocessing.active_children())
    batches_read = plain_errors(training_loader(views, batches, 1, pin_memory=False))
    next(batches_read)
    (worker,) = set(multiprocessing.active_children()) - earlier
    return batches_read, worker


def test_a_killed_worker_is_one_sentence(make_shard_folder: ShardFolderMaker) -> None:
    batches_read, worker = read_by_one_worker(make_shard_folder(train=150))
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(InputError, match=r"was killed.*lower --workers"):
        list(batches_read)


def test_a_worker_that_hangs_is_one_sentence(
    make_shard_folder: ShardFolderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.loading.PATIENCE", 60)
    batches_read, worker = read_by_one_worker(make_shard_folder(train=150))
    monkeypatch.setattr("train.loading.PATIENCE", 1)
    os.kill(worker.pid or 0, signal.SIGSTOP)
    with pytest.raises(InputError, match="not answered for 10 minutes"):
        list(batches_read)
    worker.join(10)
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("chosen", "device", "threads", "streamed", "expected"),
    [
        (3, "cpu", 2, False, 3),
        (None, "cpu", 2, False, 0),
        (None, "cpu", 2, True, 2),
        (None, "cpu", 16, False, 2),
        (None, "cuda", 2, False, 2),
    ],
)
def test_processes_that_load_do_not_take_the_cores_of_training(
    monkeypatch: pytest.MonkeyPatch, chosen: int | None, device: str, threads: int, streamed: bool, expected: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    config = TrainConfig(Path(), "small", "normal", Path(), workers=chosen)
    assert loading_workers(config, torch.device(device), streamed) == expected


def test_threads_decode_the_same(make_shard_folder: ShardFolderMaker) -> None:
    samples = PairedShards(make_shard_folder(), "train")
    indices, images = [5, 0, 7, 7, 2], [[0, 1]] * 5
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            for index, pixels in zip(indices, samples.read_many(indices, images), strict=True):
                assert torch.equal(torch.from_numpy(pixels).permute(0, 3, 1, 2), samples.read(index, [0, 1]))
    finally:
        torch.set_num_threads(threads)


KEYS = np.array([f"{index:08d}" for index in range(200)])


def test_split_is_disjoint_complete_and_of_the_asked_size() -> None:
    training, validation = split_validation(KEYS, 0.1, seed=0)
    assert len(validation) == 20
    assert sorted([*training, *validation]) == list(range(200))


def test_split_depends_on_seed_and_keys_alone() -> None:
    order = np.random.default_rng(1).permutation(200)
    _, validation = split_validation(KEYS, 0.1, seed=0)
    _, shuffled = split_validation(KEYS[order], 0.1, seed=0)
    _, other = split_validation(KEYS, 0.1, seed=1)
    assert set(KEYS[validation]) == set(KEYS[order][shuffled])
    assert set(KEYS[validation]) != set(KEYS[other])


def test_split_of_too_few_samples() -> None:
    with pytest.raises(InputError, match="1 training sample cannot be split"):
        split_validation(KEYS[:1], 0.1, seed=0)
    assert [len(part) for part in split_validation(KEYS[:2], 0.1, seed=0)] == [1, 1]


def test_an_epoch_is_a_permutation_shared_equally() -> None:
    indices = np.arange(50, 101)
    ranks = [EpochBatches(indices, 8, seed=3, rank=rank, world_size=2) for rank in range(2)]
    assert [rank.steps for rank in ranks] == [3, 3]
    seen = [index for rank in ranks for _, batch in rank for index in batch]
    assert len(seen) == len(set(seen)) == 48
    assert set(seen) <= set(indices.tolist())


def test_epochs_differ_and_repeat_and_resume() -> None:
    batches = EpochBatches(np.arange(40), 4, seed=0)
    first = list(batches)
    batches.select(epoch=1)
    second = list(batches)
    assert [batch for _, batch in first] != [batch for _, batch in second]
    batches.select(1, first_step=7)
    assert (len(batches), list(batches)) == (3, second[7:])
    batches.select(1, first_step=2, count=3)
    assert (len(batches), list(batches)) == (3, second[2:5])
    assert {epoch for epoch, _ in second} == {1}


def test_less_than_one_batch_is_refused() -> None:
    with pytest.raises(InputError, match="15 training samples cannot fill a batch of 8 on each of 2"):
        EpochBatches(np.arange(15), 8, seed=0, world_size=2)


def test_hash_is_uniform_enough() -> None:
    values = np.array([hashed(0, key) for key in range(4000)], dtype=np.float64) / 2**64
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_full_shared_memory_is_done_without(
    make_shard_folder: ShardFolderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room, batches are arrays, and notes are not shared; the batches are the same."""
    samples = PairedShards(make_shard_folder(styles_per_image=3), "train")
    expected = _epochs(samples, 0)
    monkeypatch.setattr("train.dataset.shutil.disk_usage", lambda path: SimpleNamespace(free=64 * 1024))
    full = PairedShards(make_shard_folder("full", styles_per_image=3), "train")
    assert isinstance(shared(torch.zeros(3)), np.ndarray)
    assert all(torch.equal(a, b) for a, b in zip(expected, _epochs(full, 1), strict=True))


def _command() -> list[str]:
    """Return a command that runs Python under a tiny shared memory, where a mount of its own is allowed."""
    if shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode == 0:
        mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$0"'
        return ["unshare", "-m", "sh", "-c", mount, sys.executable]
    return [sys.executable]


def test_a_script_from_standard_input_under_a_long_temporary_folder_and_a_tiny_shared_memory(
    make_shard_folder: ShardFolderMaker, tmp_path: Path
) -> None:
    shards, long = make_shard_folder(size=32), tmp_path / ("scratch" * 14)
    long.mkdir()
    script = (
        "from pathlib import Path\nfrom train import TrainConfig, train_model\n"
        f"config = TrainConfig(Path({str(shards)!r}), 'small', 'pairing', Path({str(tmp_path / 'out')!r}),"
        " epochs=1, batch_size=8, dtype='fp32', device='cpu', workers=2)\nprint(train_model(config)['epochs'])\n"
    )
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(long)}
    ended = subprocess.run(
        _command(), input=script, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["1"]
