"""Which samples are seen when: the validation split and the order of an epoch, by hashes and seeds alone."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from stylize.errors import InputError
from stylize.wording import counted


def hashed(*parts: object) -> int:
    """Return an integer in [0, 2**64) that depends on the parts alone."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def split_validation(keys: NDArray[np.str_], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices to train on and to validate on, ascending and disjoint.

    The validation split is the given fraction of samples (at least one) whose hash of (seed, key) is smallest, so it
    does not depend on how samples are spread over shards.
    """
    count = max(1, round(fraction * len(keys)))
    if count >= len(keys):
        there = counted(len(keys), "training sample")
        raise InputError(f"{there} cannot be split into training and validation: add images.")
    order = np.array(sorted(range(len(keys)), key=lambda index: (hashed(seed, "validation", keys[index]), index)))
    return np.sort(order[count:]), np.sort(order[:count])


class EpochBatches(Sampler[tuple[int, list[int]]]):
    """Batches, as the epoch and sample indices, for one process: a fresh permutation of `indices` by (seed, epoch).

    Every process gets the same number of full batches, and an incomplete rest is left out of the epoch.  They
    carry the epoch, so worker processes live on: call `select` before iterating.
    """

    def __init__(self, indices: NDArray[np.int64], batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.indices = indices
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
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
