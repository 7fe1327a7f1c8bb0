"""Classifiers that take [0, 1] pixels, because normalisation is their first layer, and the weights they start from."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylize.errors import InputError
from stylize.weights_files import read_weights
from stylize.wording import counted
from train.architectures import Network, make_network

SCRATCH, IMAGENET = "scratch", "imagenet"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # what training programs put around a state dict
_PREFIXES = ("module.", "network.")  # of models in parallel, and of this project's own


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel: (B, 3, H, W) to (B, 3, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise pixels in [0, 1]."""
        return (images - self.mean) / self.std


def build_model(arch: str, num_classes: int, weights: str = SCRATCH, stem: str = "standard") -> nn.Module:
    """Return a classifier from [0, 1] pixels (B, 3, H, W), float32, to logits (B, num_classes).

    `arch` and `stem` are as in `train.architectures.make_network`.  `weights` is "scratch", "imagenet" (the library's,
    downloaded once) or the path of a `.safetensors` or `.pth` state dict of the same architecture.  The head is always
    new.  Raises `InputError` for an unknown architecture, unreachable weights, and weights that do not fit.
    """
    if num_classes < 2:
        raise InputError(f"A classifier tells two classes or more apart, the shards have {num_classes}: use others.")
    network = make_network(arch, num_classes, stem)
    if weights != SCRATCH:
        _load_body(network, arch, weights)
    return nn.Sequential(OrderedDict(normalise=Normalise(network.mean, network.std), network=network.module))


def check_size(model: nn.Module, arch: str, size: int, num_classes: int) -> None:
    """Raise `InputError` where a model does not make (B, num_classes) logits of images of 3 × size × size."""
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, size, size))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{arch} fails on images of {size} px ({reason}): choose another network or size.") from error
    finally:
        model.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{arch} makes {found} of 2 images, not logits of {counted(num_classes, 'class', 'classes')}.")


def _load_body(network: Network, arch: str, weights: str) -> None:
    """Load all but the head, and refuse a state dict that lacks, adds or reshapes a tensor."""
    source = _pretrained_state(network, arch) if weights == IMAGENET else _file_state(Path(weights))
    unused = (*(f"{head}." for head in network.heads), "normalise.")
    state = {name: tensor for name, tensor in source.items() if not name.startswith(unused)}
    try:
        missing, unexpected = network.module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"Weights {weights} do not fit {arch} ({reason}): choose weights of that network.") from None
    wrong = [name for name in missing if not name.startswith(unused)] + unexpected
    if wrong:
        misfits = f"{counted(len(wrong), 'tensor')} missing or foreign, such as {wrong[0]}"
        raise InputError(f"Weights {weights} do not fit {arch} ({misfits}): choose weights of that network.")


def _pretrained_state(network: Network, arch: str) -> Mapping[str, Tensor]:
    if network.imagenet is None:
        raise InputError(f"There are no ImageNet weights of {arch}: give a file, or --weights {SCRATCH}.")
    try:
        return network.imagenet()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"The ImageNet weights of {arch} cannot be downloaded ({' '.join(str(error).split())}): go online, give a "
            f"local file with --weights, or train from scratch with --weights {SCRATCH}."
        ) from None


def _file_state(path: Path) -> Mapping[str, Tensor]:
    """Return a file's state dict, taken out of what training programs wrap it in."""
    if not path.is_file():
        raise InputError(f"Weights {path} do not exist: give {SCRATCH!r}, {IMAGENET!r} or a .safetensors or .pth file.")
    state: Mapping[str, Any] = read_weights(path)
    for wrapper in _WRAPPERS:
        if isinstance(inner := state.get(wrapper), Mapping):
            state = inner
            break
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"Weights {path} are not a state dict (name to tensor): save `model.state_dict()`.")
    for prefix in _PREFIXES:
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
