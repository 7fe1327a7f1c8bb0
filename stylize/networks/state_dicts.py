"""Take convolutions out of other projects' state dicts: only tensors that fit."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylize.errors import InputError

Convolutions = list[tuple[Tensor, Tensor]]


def take_convolutions(
    state: Mapping[str, Any], names: Iterable[str], channels: Iterable[tuple[int, int]], path: Path, side: int = 3
) -> Convolutions:
    """Return float32 (weight, bias) of the named layers with (input, output) channels and side × side kernels.

    Raises `InputError` where one is missing, has another shape or type, or is not finite.
    """
    return [
        (
            _take(state, f"{name}.weight", (last, first, side, side), path),
            _take(state, f"{name}.bias", (last,), path),
        )
        for name, (first, last) in zip(names, channels, strict=True)
    ]


def _take(state: Mapping[str, Any], name: str, shape: Sequence[int], path: Path) -> Tensor:
    tensor = state.get(name)
    if not isinstance(tensor, Tensor):
        raise InputError(f"{path} has no tensor {name}: give weights in the layout that docs/decoder.md names.")
    if tuple(tensor.shape) != tuple(shape) or not _is_plain(tensor):
        found = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise InputError(f"{path} has {name} as {found}, not as floating-point {tuple(shape)}: give other weights.")
    if not torch.isfinite(tensor).all():
        raise InputError(f"{path} holds NaN or infinity in {name}: fetch or make it again.")
    return tensor.float().contiguous()


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and tensor.device.type == "cpu"
