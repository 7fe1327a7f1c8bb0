"""The field's published pair, `vgg_normalised.pth` and `decoder.pth`, as state dicts of two `nn.Sequential`.

The layout is that of naoto0804/pytorch-AdaIN, which stylize-datasets shares: a 1 × 1 convolution for preprocessing and
all sixteen convolutions of VGG-19, numbered among padding, ReLU and pooling layers; and the mirrored decoder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylize.networks.adain import ENCODER_CHANNELS, Decoder, Encoder
from stylize.networks.embedded import fill, fold_preprocessing
from stylize.networks.state_dicts import take_convolutions

PREPROCESSING_LAYER = 0
ENCODER_LAYERS = (2, 5, 9, 12, 16, 19, 22, 25, 29)  # conv1_1 … conv4_1
UNUSED_LAYERS = (32, 35, 38, 42, 45, 48, 51)  # conv4_2 … conv5_4, which AdaIN never runs
DECODER_LAYERS = (1, 5, 8, 11, 14, 18, 21, 25, 28)
DECODER_CHANNELS = tuple((last, first) for first, last in reversed(ENCODER_CHANNELS))


def encoder_from_published(state: Mapping[str, Any], path: Path) -> Encoder:
    """Fold the 1 × 1 preprocessing into conv1_1 and drop what lies beyond relu4_1; `path` is for messages only."""
    ((matrix, offset),) = take_convolutions(state, [str(PREPROCESSING_LAYER)], [(3, 3)], path, side=1)
    convolutions = take_convolutions(state, map(str, ENCODER_LAYERS), ENCODER_CHANNELS, path)
    convolutions[0] = fold_preprocessing(*convolutions[0], matrix[:, :, 0, 0].double(), offset.double())
    return fill(Encoder(), convolutions)


def decoder_from_published(state: Mapping[str, Any], path: Path) -> Decoder:
    """Return the decoder of a state dict; `path` is for messages only."""
    return fill(Decoder(), take_convolutions(state, map(str, DECODER_LAYERS), DECODER_CHANNELS, path))


def encoder_to_published(encoder: Encoder) -> dict[str, Tensor]:
    """Return an encoder as the published VGG: identity as preprocessing, zeros beyond relu4_1.

    The zeros are there because published loaders build the whole network and load it strictly before they cut it.
    """
    identity = {"0.weight": torch.eye(3)[:, :, None, None], "0.bias": torch.zeros(3)}
    weight, bias = torch.zeros(512, 512, 3, 3), torch.zeros(512)  # shared, so that the file holds them once
    unused = {f"{n}.{part}": tensor for n in UNUSED_LAYERS for part, tensor in (("weight", weight), ("bias", bias))}
    return identity | _renamed(encoder, ENCODER_LAYERS) | unused


def decoder_to_published(decoder: Decoder) -> dict[str, Tensor]:
    """Return a decoder as the published `nn.Sequential`."""
    return _renamed(decoder, DECODER_LAYERS)


def _renamed(network: Encoder | Decoder, layers: tuple[int, ...]) -> dict[str, Tensor]:
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    tensors = [tensor.contiguous() for tensor in network.state_dict().values()]
    return dict(zip(names, tensors, strict=True))
