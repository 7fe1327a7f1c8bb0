"""BatchNorm where there are several processes, and its running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return every BatchNorm of a model, whatever its kind."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def statistics_untouched(model: nn.Module) -> Iterator[None]:
    """Keep forward passes in train mode from changing BatchNorm's running statistics."""
    norms = [norm for norm in batch_norms(model) if norm.training]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def fresh_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm's running statistics be the plain average over the forward passes in here, without older ones."""
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # PyTorch's cumulative average; its first batch replaces the old statistics
        norm.get_buffer("num_batches_tracked").zero_()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with every BatchNorm over the images of all processes; its state dict stays the same.

    On accelerators that is PyTorch's SyncBatchNorm, which there is for them alone.
    """
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, module in list(model.named_modules()):
        if type(module) is nn.BatchNorm2d:
            model.set_submodule(name, _SynchronisedBatchNorm2d(module), strict=True)
    return model


class _SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d (Ioffe & Szegedy 2015) over the images of all processes, of which each has as many."""

    def __init__(self, single: nn.BatchNorm2d) -> None:
        super().__init__(single.num_features, single.eps, single.momentum, single.affine, single.track_running_stats)
        self.load_state_dict(single.state_dict(), assign=True)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by mean and biased variance over (B, H, W) of all processes; in float32."""
        if not self.training:
            return super().forward(images)
        pixels = images.float()
        mean = _mean_over_processes(pixels.mean((0, 2, 3), keepdim=True))
        centred = pixels - mean
        variance = _mean_over_processes(centred.square().mean((0, 2, 3), keepdim=True))
        if self.track_running_stats:
            self._track(mean.detach().flatten(), variance.detach().flatten(), images.numel() // images.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight.view(-1, 1, 1)
        return (centred * scale + self.bias.view(-1, 1, 1)).to(images.dtype)

    def _track(self, mean: Tensor, variance: Tensor, pixels: int) -> None:
        """Move the running statistics on, the variance unbiased, as `nn.BatchNorm2d` does."""
        count = pixels * distributed.get_world_size()
        batches, means, variances = (
            self.get_buffer(name) for name in ("num_batches_tracked", "running_mean", "running_var")
        )
        batches += 1
        share = 1 / batches.item() if self.momentum is None else self.momentum
        means.lerp_(mean, share)
        variances.lerp_(variance * (count / (count - 1)), share)


def _mean_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)
    return total / distributed.get_world_size()


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over processes; its gradient is that of all processes' losses, summed likewise."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
