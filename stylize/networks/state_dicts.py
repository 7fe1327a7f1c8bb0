"""Read other projects' PyTorch state dicts: never run what a file holds, and take only tensors that fit."""

import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylize.errors import InputError

Convolutions = list[tuple[Tensor, Tensor]]


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Read a `.pth` file with `torch.load(weights_only=True)`; raise `InputError` for anything but a state dict."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}): give the path of a .pth file.") from None
    except pickle.UnpicklingError:  # its message tells how to run the file after all
        raise InputError(f"{path} is not a PyTorch file of plain tensors: fetch it again, from its makers.") from None
    except Exception as error:  # torch raises whatever it likes on damaged files
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read as a PyTorch file ({reason}): fetch it again.") from None
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds no state dict (name to tensor): save `model.state_dict()`.")
    return state


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
