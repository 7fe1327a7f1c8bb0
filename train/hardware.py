"""What a run makes of its hardware: bf16, BatchNorm over several processes, and processes that load."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

from train.architectures import make_network
from train.config import TrainConfig
from train.distributed import World

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
