"""Random access to the samples of a shard folder, decoded to pixels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stylize.errors import InputError
from stylize.shards.manifest import read_manifest
from stylize.shards.stored_index import ORIGIN, load_index
from train.decoding import Pixels, UnusableImageError, decode_images
from train.order import split_validation
from train.streamed import StreamedBytes
from train.verified import VerifiedBytes


class PairDataset(Dataset[tuple[Tensor, int]]):
    """All samples of one split, checked against the manifest; `dataset[i]` is (uint8 (1+K, 3, H, W), label).

    Image 0 is the original, images 1 to K are its stylized copies (none in the test split).  Only offsets are kept in
    memory, in arrays, so a data set of millions is cheap to hand to worker processes.  Raises `InputError` where a
    shard is missing, damaged, or holds another number of samples, copies or classes than the manifest says; damage to
    bytes shows when they are first read.
    """

    def __init__(self, shards: Path, split: str) -> None:
        manifest = read_manifest(shards)
        self.class_names = manifest.class_names
        self.size: int | None = manifest.spec.get("size")
        self.copies = int(manifest.spec.get("styles_per_image", 1)) if split == "train" else 0
        self.index = load_index(shards, manifest, split)
        self.keys, self.labels = self.index.keys, self.index.labels
        self._bytes = VerifiedBytes(self.index)
        origin = shards / ORIGIN
        self.streamed = StreamedBytes(origin.read_text(), self.index) if origin.exists() else None

    def __len__(self) -> int:
        return len(self.keys)

    def by_class(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return, of ascending indices of samples, those with each label, ascending."""
        labels = self.labels[indices]
        order = np.argsort(labels, kind="stable")
        return np.split(indices[order], np.searchsorted(labels[order], np.arange(1, len(self.class_names))))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.read(index, range(1 + self.copies)), int(self.labels[index])

    def fetch(self, indices: Sequence[int], images: int) -> None:
        """Fetch the first images of samples at once where their shards are behind a URL, before they are read."""
        if self.streamed is not None:
            self.streamed.fetch(indices, images)

    def read(self, index: int, images: Sequence[int]) -> Tensor:
        """Return the chosen images of a sample (0 original, k the k-th copy) as uint8 (len(images), 3, H, W)."""
        pixels = self._decoded(index, self._payloads(index, images))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def read_many(self, indices: Sequence[int], images: Sequence[Sequence[int]]) -> list[Pixels]:
        """Return the chosen images of each sample, V of each, as uint8 (V, H, W, 3).

        First all are read, then all decoded: faster than one by one, for what is used stays in the processor's cache.
        Decoders leave Python's lock, so they share the threads of PyTorch: all of training on CPUs, one of a worker.
        """
        payloads = [self._payloads(index, parts) for index, parts in zip(indices, images, strict=True)]
        threads = torch.get_num_threads()
        samples = list(zip(indices, payloads, strict=True))
        shares = [samples[k * len(samples) // threads : (k + 1) * len(samples) // threads] for k in range(threads)]
        decoded = _decoders(threads).map(lambda share: [self._decoded(*sample) for sample in share], shares)
        return list(chain.from_iterable(decoded))

    def _payloads(self, index: int, images: Sequence[int]) -> list[bytes]:
        reader = self.streamed if self.streamed and self.streamed.holds(index) else self._bytes
        return reader.read(index, images)

    def _decoded(self, index: int, payloads: Sequence[bytes]) -> Pixels:
        try:
            return decode_images(payloads, self.size)
        except UnusableImageError as error:
            raise InputError(f"{self.index.path(index)}: sample {self.keys[index]} {error}") from None


@cache
def _decoders(threads: int) -> ThreadPoolExecutor:
    """Return threads for the life of the process."""
    return ThreadPoolExecutor(threads, "decoder")


def hold_out(
    shards: Path, samples: PairDataset, fraction: float, seed: int
) -> tuple[NDArray[np.int64], PairDataset, NDArray[np.int64]]:
    """Return the indices of samples to train on, the samples to validate on, and the indices of those.

    A split `val` of the shards goes before a fraction of the training split.
    """
    own = PairDataset(shards, "val")
    if len(own):
        return np.arange(len(samples)), own, np.arange(len(own))
    training, validation = split_validation(samples.keys, fraction, seed)
    return training, samples, validation
