"""One process, or several started by `torchrun` (its environment variables say which)."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from stylize.errors import InputError


@dataclass(frozen=True)
class World:
    """Rank of this process, the number of processes, and its device; process 0 writes all files."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Return whether any process has the flag set."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return bool(votes)

    def sum(self, *values: float) -> list[float]:
        """Return the sums of numbers over all processes, exact for whole ones."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(totals)
        summed: list[float] = totals.tolist()
        return summed

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        return self.sum(value)[0] / self.size

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors process 0's values on every process."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that `torchrun` started (nccl on CUDA, gloo elsewhere), or be alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device)
    if size == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), size, chosen)
    finally:
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"Device {name!r} cannot be used ({reason}): choose auto, cpu or cuda.") from None
    return device
