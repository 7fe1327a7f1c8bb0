"""Processes of one training run: `torchrun`, devices and their types."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from stylize.console import PATIENCE, InputError, LiteralConsole
from stylize.interruption import answered_by
from train.config import TrainConfig
from train.models import make_network

LIMIT = timedelta(seconds=PATIENCE)


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

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums of numbers over all processes."""
        total = values.to(self.device, copy=True)
        if self.size > 1:
            distributed.all_reduce(total)
        return total

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
    _meet("nccl" if chosen.type == "cuda" else "gloo", size)
    try:
        yield World(distributed.get_rank(), size, chosen)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("gloo", "NCCL")):
            raise
        raise InputError(
            f"Another process of this run ended, or did not answer for {LIMIT}: see what it printed, and start all "
            "of them again; they go on from the last state."
        ) from error
    finally:
        distributed.destroy_process_group()


def _meet(backend: str, size: int) -> None:
    """Wait for the other processes; raise `InputError` where they do not come.

    Signals end this process at once meanwhile: there is nothing to save, and PyTorch's code does not look at them.
    """
    rank, address, port = (os.environ.get(name, "?") for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    where = f"process {rank} of {size} waits for the others at {address}:{port}"
    LiteralConsole(stderr=True, highlight=False).print(f"{where.capitalize()}, for {LIMIT} at most.")
    try:
        with answered_by(signal.SIG_DFL):
            distributed.init_process_group(backend, timeout=LIMIT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"The {where}, in vain ({reason}): start all of them, as with torchrun.") from None


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("neither a CPU nor a GPU of CUDA")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"Device {name!r} cannot be used ({reason}): choose auto, cpu or cuda.") from None
    return device


FEW_THREADS = 4
_CPU_INFO = Path("/proc/cpuinfo")


def uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Return whether to train in bf16: "auto" does so where the hardware multiplies bf16 matrices and gains by it."""
    if config.dtype != "auto":
        return config.dtype == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = _CPU_INFO.read_text().split() if _CPU_INFO.exists() else []
    if "avx512_bf16" not in flags and "amx_bf16" not in flags:
        return False
    return not _has_grouped_convolutions(config.arch)


@cache
def _has_grouped_convolutions(arch: str) -> bool:
    """PyTorch 2.14 takes twice as long for depthwise convolutions in bf16 as in fp32."""
    layers = make_network(arch, num_classes=2).module.modules()
    return any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in layers)


def uses_sync_batchnorm(config: TrainConfig, world: World) -> bool:
    """Return whether BatchNorm spans all processes; by default where there are several, on GPUs."""
    by_default = world.device.type == "cuda" and not config.split_batchnorm
    wanted = by_default if config.sync_batchnorm is None else config.sync_batchnorm
    return wanted and world.size > 1


def loading_workers(config: TrainConfig, device: torch.device, streamed: bool) -> int:
    """Return how many processes load images; by default none where they would take the few cores of training.

    There the process itself decodes, on all of them: 5 % faster on two.  Shards that are `streamed` have latency.
    """
    if config.workers is not None:
        return config.workers
    return 0 if device.type == "cpu" and torch.get_num_threads() <= FEW_THREADS and not streamed else 2
