"""torchvision's VGG-19 as an encoder: ImageNet preprocessing folded in, normalised on the built-in pictures."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from stylize.errors import InputError
from stylize.networks.adain import ENCODER_CHANNELS, Encoder
from stylize.networks.embedded import fill, fold_preprocessing
from stylize.networks.normalise import built_in_pictures, normalise
from stylize.networks.state_dicts import take_convolutions
from stylize.shards.format import file_sha256

TORCHVISION = "vgg19-torchvision"
LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19)  # conv1_1 … conv4_1 among torchvision's `features`
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def is_torchvision(state: Mapping[str, Any]) -> bool:
    """Tell torchvision's names from the published layout's."""
    return f"features.{LAYERS[0]}.weight" in state


def encoder_from_torchvision(state: Mapping[str, Any], path: Path) -> Encoder:
    """Return the normalised encoder of a `torchvision.models.vgg19` state dict; `path` is for messages only."""
    convolutions = take_convolutions(state, [f"features.{layer}" for layer in LAYERS], ENCODER_CHANNELS, path)
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    convolutions[0] = fold_preprocessing(*convolutions[0], torch.diag(1 / deviation), -mean / deviation)
    encoder = fill(Encoder(), convolutions)
    normalise(encoder, built_in_pictures())
    return encoder


def torchvision_file() -> Path:
    """Return torchvision's file in PyTorch's cache, downloaded when it is not there; its name holds its SHA-256."""
    path = cached_file()
    prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        _download(path, prefix)
    if not file_sha256(path).startswith(prefix):
        raise InputError(f"{path} is damaged: delete it, and it will be downloaded again.")
    return path


def cached_file() -> Path:
    """Return where PyTorch keeps the file, there or not."""
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights_url()).name)


def weights_url() -> str:
    """Return where torchvision's file is on the web."""
    from torchvision.models import VGG19_Weights  # takes a second, which few commands need to spend

    url: str = VGG19_Weights.IMAGENET1K_V1.url
    return url


def _download(path: Path, prefix: str) -> None:
    url = weights_url()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), prefix, progress=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{url} cannot be downloaded ({error}): go online, or fetch it elsewhere and run "
            f"`stylize weights import --encoder {path.name}`."
        ) from None
