"""Batch normalisation over clean and stylized images: split statistics, and recalibration."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stylize.console import InputError


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return every BatchNorm of a model, whatever its kind."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def _changed(norms: Sequence[_BatchNorm], attribute: str, value: object) -> Iterator[None]:
    """Give an attribute of BatchNorms another value in here."""
    before = [getattr(norm, attribute) for norm in norms]
    for norm in norms:
        setattr(norm, attribute, value)
    try:
        yield
    finally:
        for norm, own in zip(norms, before, strict=True):
            setattr(norm, attribute, own)


def statistics_untouched(model: nn.Module) -> AbstractContextManager[None]:
    """Keep forward passes in train mode from changing BatchNorm's running statistics."""
    return _changed([norm for norm in batch_norms(model) if norm.training], "track_running_stats", False)


def fresh_statistics(model: nn.Module) -> AbstractContextManager[None]:
    """Let BatchNorm's running statistics be the plain average over the forward passes in here, without older ones."""
    norms = [norm for norm in batch_norms(model) if norm.running_mean is not None]
    for norm in norms:
        norm.get_buffer("num_batches_tracked").zero_()
    return _changed(norms, "momentum", None)  # a cumulative average, whose first batch replaces the old


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with every BatchNorm over the images of all processes; its state dict stays the same.

    On accelerators that is PyTorch's SyncBatchNorm, which there is for them alone.
    """
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    _check_kind(model, "--sync-batchnorm")
    return _replaced(model, nn.BatchNorm2d, _SynchronisedBatchNorm2d)


class _SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with a second one, for copies and adversaries in training (AdvProp, Xie et al. 2020)."""

    def __init__(self, main: nn.BatchNorm2d) -> None:
        super().__init__(main.num_features, main.eps, main.momentum, main.affine, main.track_running_stats)
        _take_over(self, main)
        self.auxiliary, self.views = copy.deepcopy(main), 1

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B · V, C, H, W), of which every V-th, from the first on, is an original."""
        if self.views == 1:
            return super().forward(images)
        views = images.view(-1, self.views, *images.shape[1:])
        originals, others = super().forward(views[:, 0]), self.auxiliary(views[:, 1:].flatten(0, 1))
        return torch.cat([originals[:, None], others.view_as(views[:, 1:])], 1).flatten(0, 1)


def with_auxiliary(model: nn.Module) -> nn.Module:
    """Return the model with a second BatchNorm beside every one, for all views but the first in training.

    Raises `InputError` where it has none, or one of another kind, such as timm's BatchNorm with an activation.
    """
    _check_kind(model, "--split-batchnorm")
    if not any(isinstance(norm, nn.BatchNorm2d) for norm in batch_norms(model)):
        raise InputError("The network has no BatchNorm2d: leave --split-batchnorm out.")
    return _replaced(model, nn.BatchNorm2d, _SplitBatchNorm2d)


def without_auxiliary(model: nn.Module) -> nn.Module:
    """Return the model that evaluation knows: the main BatchNorms of `with_auxiliary` alone."""

    def main(norm: _SplitBatchNorm2d) -> nn.BatchNorm2d:
        single = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        _take_over(single, norm)
        return single.train(norm.training)

    return _replaced(model, _SplitBatchNorm2d, main)


def views_in_batch(model: nn.Module, views: int) -> AbstractContextManager[None]:
    """Tell split BatchNorms how many views of each image the batches in here hold, side by side; 1 is an original."""
    return _changed([norm for norm in batch_norms(model) if isinstance(norm, _SplitBatchNorm2d)], "views", views)


def _take_over(norm: nn.BatchNorm2d, other: nn.BatchNorm2d) -> None:
    """Give a BatchNorm the very parameters, frozen ones too, and running statistics of another."""
    for name in norm.state_dict(keep_vars=True):
        setattr(norm, name, getattr(other, name))


def _check_kind(model: nn.Module, option: str) -> None:
    """Raise `InputError` where a BatchNorm does more than PyTorch's, which its replacement would not do."""
    for norm in batch_norms(model):
        if isinstance(norm, nn.BatchNorm2d) and type(norm) is not nn.BatchNorm2d:
            raise InputError(f"The network's {type(norm).__name__} cannot be replaced: leave {option} out.")


def _replaced(model: nn.Module, kind: type[nn.BatchNorm2d], make: Callable[[Any], nn.Module]) -> nn.Module:
    """Put another module in the place of each that is exactly of one kind."""
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):  # one under two names stays one
        if type(module) is kind:
            if module not in made:
                made[module] = make(module)
            model.set_submodule(name, made[module], strict=True)
    return model


class _SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d (Ioffe & Szegedy 2015) over the images of all processes, of which each has as many."""

    def __init__(self, single: nn.BatchNorm2d) -> None:
        super().__init__(single.num_features, single.eps, single.momentum, single.affine, single.track_running_stats)
        _take_over(self, single)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by mean and biased variance over (B, H, W) of all processes; in float32."""
        if not self.training:
            return super().forward(images)
        pixels = images.float()
        mean = _mean_over_processes(pixels.mean((0, 2, 3), keepdim=True))
        centred = pixels - mean
        variance = _mean_over_processes(centred.square().mean((0, 2, 3), keepdim=True))
        if self.track_running_stats:
            count = (images.numel() // images.shape[1]) * distributed.get_world_size()
            batches = self.get_buffer("num_batches_tracked").add_(1)
            share = 1 / batches.item() if self.momentum is None else self.momentum
            self.get_buffer("running_mean").lerp_(mean.detach().flatten(), share)
            self.get_buffer("running_var").lerp_(variance.detach().flatten() * (count / (count - 1)), share)
        scale = (variance + self.eps).rsqrt() * self.weight.view(-1, 1, 1)
        return (centred * scale + self.bias.view(-1, 1, 1)).to(images.dtype)


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
