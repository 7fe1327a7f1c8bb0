"""Classifiers by torchvision's names; they take [0, 1] pixels because normalisation is their first layer."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from stylize.errors import InputError
from stylize.weights_files import read_weights
from stylize.wording import counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SCRATCH, IMAGENET = "scratch", "imagenet"


@dataclass(frozen=True)
class Architecture:
    """How to build a torchvision network, which layer is its head, and what its pretrained weights expect."""

    constructor: Callable[..., nn.Module]
    pretrained: WeightsEnum
    head: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fast_bf16_on_cpu: bool = True  # PyTorch 2.14 takes twice as long for depthwise convolutions in bf16 as in fp32


ARCHITECTURES = {
    "resnet18": Architecture(models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1, "fc"),
    "resnet34": Architecture(models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1, "fc"),
    "resnet50": Architecture(models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1, "fc"),
    # GoogLeNet's published weights want (pixel - 0.5) / 0.5; torchvision hides this in `transform_input`, switched off
    # here because it would normalise a second time.
    "googlenet": Architecture(
        models.googlenet,
        models.GoogLeNet_Weights.IMAGENET1K_V1,
        "fc",
        {"aux_logits": False, "transform_input": False, "init_weights": True},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "mobilenet_v3_small": Architecture(
        models.mobilenet_v3_small,
        models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
        "classifier.3",
        fast_bf16_on_cpu=False,
    ),
    "mobilenet_v3_large": Architecture(
        models.mobilenet_v3_large,
        models.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
        "classifier.3",
        fast_bf16_on_cpu=False,
    ),
}


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


def build_model(arch: str, num_classes: int, weights: str = SCRATCH) -> nn.Module:
    """Return a classifier from [0, 1] pixels (B, 3, H, W), float32, to logits (B, num_classes).

    `weights` is "scratch", "imagenet" (torchvision's, downloaded once) or the path of a `.safetensors` or `.pth` state
    dict of the same architecture.  The head is always new, by PyTorch's default initialisation.  Raises `InputError`
    for an unknown architecture, unreachable weights, and weights that do not fit.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"Unknown architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}.")
    if num_classes < 2:
        raise InputError(f"A classifier tells two classes or more apart, the shards have {num_classes}: use others.")
    architecture = ARCHITECTURES[arch]
    network = architecture.constructor(weights=None, **architecture.options)
    if weights != SCRATCH:
        _load_body(network, architecture, arch, weights)
    features = network.get_parameter(f"{architecture.head}.weight").shape[1]
    network.set_submodule(architecture.head, nn.Linear(features, num_classes))
    normalise = Normalise(architecture.mean, architecture.std)
    return nn.Sequential(OrderedDict(normalise=normalise, network=network))


def _load_body(network: nn.Module, architecture: Architecture, arch: str, weights: str) -> None:
    """Load all but the head, and refuse a state dict that lacks, adds or reshapes a tensor."""
    source = _pretrained_state(architecture, arch) if weights == IMAGENET else _file_state(Path(weights))
    unused = (f"{architecture.head}.", "aux1.", "aux2.", "normalise.")
    state = {name.removeprefix("network."): tensor for name, tensor in source.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(unused)}
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"Weights {weights} do not fit {arch} ({reason}): choose weights of that network.") from None
    wrong = [name for name in missing if not name.startswith(unused)] + unexpected
    if wrong:
        misfits = f"{counted(len(wrong), 'tensor')} missing or foreign, such as {wrong[0]}"
        raise InputError(f"Weights {weights} do not fit {arch} ({misfits}): choose weights of that network.")


def _pretrained_state(architecture: Architecture, arch: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = architecture.pretrained.get_state_dict(progress=False, check_hash=True)
        return state
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"The ImageNet weights of {arch} cannot be downloaded ({error}): go online, give a local file with "
            f"--weights, or train from scratch with --weights {SCRATCH}."
        ) from None


def _file_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"Weights {path} do not exist: give {SCRATCH!r}, {IMAGENET!r} or a .safetensors or .pth file.")
    state = read_weights(path)
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"Weights {path} are not a state dict (name to tensor): save `model.state_dict()`.")
    return state
