"""Batches for training and evaluation: which samples, in which order, loaded by worker processes."""

import errno
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from stylize.console import NO_ANSWER, PATIENCE, InputError, counted, plain_errors
from stylize.interruption import end_with_parent
from stylize.shards.manifest import ORIGIN_NAME, Manifest
from stylize.shards.remote import without_pairs
from train.augment import VIEWS, ImagePreset, SampleBatch
from train.dataset import SHARED_MEMORY, PairedShards, hashed, shared

T = TypeVar("T")
Batch = tuple[Tensor, Tensor]
Sent = Tensor | NDArray[Any]
GRACE_SECONDS = 15  # for the step at work, after SIGTERM to all processes
_FOR_MAIN_PROCESS = {signal.SIGINT, signal.SIGTERM}
_LONGEST_TMPDIR = 60  # of 107 bytes that the name of a socket may have; folder and name take some 40


def hold_out(
    shards: Path, samples: PairedShards, fraction: float, seed: int
) -> tuple[NDArray[np.int64], PairedShards, NDArray[np.int64]]:
    """Return the indices of samples to train on, the samples to validate on, and the indices of those.

    A split `val` of the shards goes before a fraction of the training split.
    """
    own = PairedShards(shards, "val")
    if len(own):
        return np.arange(len(samples)), own, np.arange(len(own))
    training, validation = split_validation(samples.keys, fraction, seed)
    return training, samples, validation


def split_validation(
    keys: NDArray[np.str_], fraction: float, seed: int, thing: str = "training sample", advice: str = "add images"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices to train on and to validate on, ascending and disjoint.

    The validation split is the given fraction of samples (at least one) whose hash of (seed, key) is smallest, so it
    does not depend on how samples are spread over shards.  An `InputError` speaks of a `thing` and ends with `advice`.
    """
    count = max(1, round(fraction * len(keys)))
    if count >= len(keys):
        raise InputError(f"{counted(len(keys), thing)} cannot be split into training and validation: {advice}.")
    order = np.array(sorted(range(len(keys)), key=lambda index: (hashed(seed, "validation", keys[index]), index)))
    return np.sort(order[count:]), np.sort(order[:count])


def is_streamed(shards: Path) -> bool:
    """Return whether some shards of a folder are behind the URL that it came from."""
    return (shards / ORIGIN_NAME).exists()


def held_out_shards(manifest: Manifest, fraction: float, seed: int) -> set[str]:
    """Return the names of training shards to validate on, chosen as samples are: none if there is a split for it."""
    if manifest.samples("val"):
        return set()
    names = np.array([shard.name for shard in manifest.entries("train")])
    _, held_out = split_validation(names, fraction, seed, "training shard", "raise --cache-gb")
    return set(names[held_out].tolist())


def evaluated_shards(manifest: Manifest, fraction: float, seed: int) -> set[str]:
    """Return the names of all shards that are evaluated on, which are read in any order."""
    return without_pairs(manifest) | held_out_shards(manifest, fraction, seed)


class EpochBatches(Sampler[tuple[int, list[int]]]):
    """Batches, as the epoch and sample indices, for one process: a fresh permutation of `indices` by (seed, epoch).

    Every process gets the same number of full batches, and an incomplete rest is left out of the epoch.  They
    carry the epoch, so worker processes live on: call `select` before iterating.
    """

    def __init__(self, indices: NDArray[np.int64], batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.indices = indices
        self.images, self.batch_size = len(indices), batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.steps = len(indices) // (batch_size * world_size)
        if self.steps == 0:
            raise InputError(
                f"{counted(len(indices), 'training sample')} cannot fill a batch of {batch_size} on each of "
                f"{counted(world_size, 'process', 'processes')}: lower --batch-size."
            )
        self.select(epoch=0)

    def select(self, epoch: int, first_step: int = 0, count: int | None = None) -> None:
        """Choose what the next iteration yields: `count` steps of an epoch from `first_step` on, by default all."""
        self.epoch, self.first_step = epoch, first_step
        self.end = self.steps if count is None else min(self.steps, first_step + count)

    def __len__(self) -> int:
        return self.end - self.first_step

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.indices)
        for step in range(self.first_step, self.end):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield self.epoch, order[start : start + self.batch_size].tolist()


class TrainingViews(Dataset[tuple[Sent, Sent]]):
    """Batches of augmented samples of one epoch: uint8 (N, V, 3, size, size), originals first, and labels (N,).

    `training` are the indices that are trained on.  `views` names what there is beside the original; images that are
    not among them are not even read.  Everything random depends on (seed, epoch, key) alone, so not on the number of
    workers.
    """

    def __init__(
        self,
        samples: PairedShards,
        training: NDArray[np.int64],
        preset: ImagePreset,
        seed: int,
        views: str,
        stylized_fraction: float = 1.0,
    ) -> None:
        self.samples, self.preset, self.seed, self.views = samples, preset, seed, views
        self.stylized_fraction = stylized_fraction
        self.by_class = samples.by_class(training)

    def __getitem__(self, batch: tuple[int, Sequence[int]]) -> tuple[Sent, Sent]:
        epoch, indices = batch
        drawn = SampleBatch(self.samples, self.by_class, self.preset, self.seed, epoch, indices, self.stylized_fraction)
        return sendable(VIEWS[self.views].make(drawn)), sendable(torch.from_numpy(self.samples.labels[list(indices)]))


class EvaluationImages(Dataset[tuple[Tensor, int]]):
    """Originals, resized for evaluation, and the label, for the chosen sample indices: uint8 (1, 3, size, size).

    With `with_copy` and where there are copies, the first copy follows the original: uint8 (2, 3, size, size).
    """

    def __init__(
        self, samples: PairedShards, preset: ImagePreset, indices: Sequence[int] | None = None, with_copy: bool = False
    ) -> None:
        self.samples, self.preset = samples, preset
        self.indices = range(len(samples)) if indices is None else indices
        self.images = [0, 1] if with_copy and samples.copies else [0]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        index = int(self.indices[position])
        pixels = self.samples.read(index, self.images)
        return self.preset.resize(pixels), int(self.samples.labels[index])


class Loader(Iterable[Batch]):
    """Batches made by worker processes, or by this one; their `InputError`s, death and silence are one here too."""

    def __init__(self, workers: int, **options: Any) -> None:
        self._options, self._workers = options, set[multiprocessing.process.BaseProcess]()
        self._batches: DataLoader[Any] = DataLoader(
            num_workers=workers,
            persistent_workers=workers > 0 and "sampler" in options,
            worker_init_fn=partial(_start_worker, dict(os.environ)),
            multiprocessing_context=process_context() if workers else None,
            **options,
        )

    def __iter__(self) -> Iterator[Batch]:
        earlier = set(multiprocessing.active_children())
        try:
            batches = iter(self._batches)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            warnings.warn(f"Shared memory, {SHARED_MEMORY}, is full: images are loaded without workers.", stacklevel=2)
            batches = iter(DataLoader(**self._options))
        self._workers |= set(multiprocessing.active_children()) - earlier
        for images, labels in plain_errors(_answered(batches, self._workers)):
            yield torch.as_tensor(images), torch.as_tensor(labels)


def _answered(batches: Iterator[T], workers: Collection[multiprocessing.process.BaseProcess]) -> Iterator[T]:
    """Yield batches, and kill workers that let this process wait for one too long.

    PyTorch's `timeout` does not look while a worker hands over a tensor, nor end a worker that hangs.
    """
    asked, ended, hung = [time.monotonic()], threading.Event(), threading.Event()

    def watch() -> None:
        while workers and not ended.wait(PATIENCE / 100):
            if time.monotonic() - asked[0] > PATIENCE:
                hung.set()
                for worker in workers:
                    worker.kill()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        while True:
            asked[0] = time.monotonic()
            batch = next(batches, None)
            asked[0] = math.inf
            if batch is None:
                return
            yield batch
    except Exception as error:
        if hung.is_set():
            raise InputError(NO_ANSWER) from error
        raise
    finally:
        ended.set()


def training_loader(samples: TrainingViews, batches: EpochBatches, workers: int, pin_memory: bool) -> Loader:
    """Return a loader of uint8 (B, V, 3, size, size) and labels (B,) whose workers live for the whole run."""
    # Without a batch size each item is a batch.
    return Loader(workers, dataset=samples, sampler=batches, batch_size=None, collate_fn=tuple, pin_memory=pin_memory)


def evaluation_loader(images: EvaluationImages, batch_size: int, workers: int) -> Loader:
    """Return a loader of uint8 (B, 1 or 2, 3, size, size) and labels (B,) in the order of the samples."""
    return Loader(workers, dataset=images, batch_size=batch_size, collate_fn=_collated)


def _collated(samples: Sequence[tuple[Tensor, int]]) -> tuple[Sent, Sent]:
    """Stack images pixel by pixel in memory as they were decoded."""
    images, labels = zip(*samples, strict=True)
    stacked = torch.stack([views.permute(0, 2, 3, 1) for views in images]).permute(0, 1, 4, 2, 3)
    return sendable(stacked), sendable(torch.tensor(labels))


def sendable(tensor: Tensor) -> Sent:
    """Return a tensor for the main process: in shared memory or, where that is full, as an array for a pipe.

    Left to itself PyTorch finds the shared memory full in a thread, and the main process waits for ever.
    """
    return tensor if get_worker_info() is None else shared(tensor)


def _start_worker(environment: dict[str, str], worker: int) -> None:
    """Give a worker the environment of now: that of its server process may be older than credentials, say.

    Signals to all processes stop the main one alone, which still needs the workers to finish its step and save.
    SIGTERM, by which the main process ends workers that are left too, ends them after a while.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: signal.alarm(GRACE_SECONDS))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    end_with_parent()  # PyTorch's watchdog looks at the worker's server, which lives on with it


def process_context() -> "multiprocessing.context.SpawnContext | multiprocessing.context.ForkServerContext":
    """Start workers from a clean server process: forking one that runs threads (torch, progress bar) may deadlock."""
    main = sys.modules["__main__"]
    if not Path(getattr(main, "__file__", None) or __file__).exists():
        del main.__file__  # a script from standard input, which workers would look for
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    _shorten_socket_names()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.loading"])  # imports torch once, not once per worker
    # The server and the workers that it forks inherit the mask: signals to all processes reach the main one alone, from
    # the first moment on, and not also imports that answer with a traceback each.
    resource_tracker.ensure_running()  # first, because starting it lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_MAIN_PROCESS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _shorten_socket_names() -> None:
    """Let the sockets between processes lie in /tmp where a long TMPDIR leaves no room for their names."""
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) <= _LONGEST_TMPDIR:
        return
    reason = "too long for the names of sockets"
    tempfile.tempdir = "/tmp"  # noqa: S108
    try:
        folder = util.get_temp_dir()  # which this process and its workers keep to
    except OSError as error:
        raise InputError(f"TMPDIR={given} is {reason}, and /tmp fails ({error.strerror}): set another.") from None
    finally:
        tempfile.tempdir = given
    if len(os.fsencode(folder)) > _LONGEST_TMPDIR:
        raise InputError(f"TMPDIR={given} is {reason}: set a shorter one, as TMPDIR=/tmp.")


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """Turn uint8 images (B, 3, H, W) into float32 pixels in [0, 1] on the device, channels last."""
    images = images.to(device, non_blocking=True)
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)
