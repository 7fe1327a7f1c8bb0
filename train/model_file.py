"""Model files: weights with a card that says what they are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from stylize.console import InputError, counted
from stylize.console.references import is_reference
from stylize.files import why_unreadable, write_atomically
from train.models import build_model

FORMAT_NAME = "stylized-pairing model"
FORMAT_VERSION = 1
MODEL_NAME = "model.safetensors"
_trusted: set[str] = set()  # code that model files may run


@dataclass(frozen=True)
class ModelCard:
    """What a model is, what it was trained on and how to show it images.

    `image_size` and `image_preset` say how a test image is resized; `shards_sha256` is the manifest's digest.
    """

    arch: str
    method: str
    class_names: list[str]
    image_size: int
    image_preset: str
    seed: int
    shards_sha256: str
    versions: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write a model and its card atomically; equal tensors and cards give equal bytes."""
    # Copies, because safetensors refuses tensors that share memory, as tied layers have them.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    document = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "tensors_sha256": tensors_sha256(tensors),
        "card": asdict(card),
    }
    # One metadata entry only: safetensors does not promise an order of several.
    payload = save(tensors, metadata={"model": json.dumps(document, sort_keys=True)})
    write_atomically(path, payload)


def read_card(path: Path) -> ModelCard:
    """Read a model's card without its tensors; raises `InputError` as `load_model`."""
    path = model_file(path)
    return _card(_read(path, with_tensors=False)[0], path)


def model_file(path: Path) -> Path:
    """Return the file of a model that is named by its file, or by the folder that `train run` wrote."""
    return path / MODEL_NAME if path.is_dir() else path


def trust(reference: str) -> None:
    """Let model files that were made by the code `package.module:function` import and call it in this process."""
    if not is_reference(reference):
        raise InputError(f"--trust is {reference!r}: give package.module:function.")
    _trusted.add(reference)


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Return the model of a file or of a run's folder, in eval mode and without parameter gradients, and its card.

    The model maps [0, 1] pixels (B, 3, H, W), float32, to logits (B, classes).  Raises `InputError` for a file that is
    missing, damaged, not of this format, or whose tensors fit neither its architecture nor its class names, and for
    one that was made by code which nobody has named to `trust`: a file does not choose what runs.
    """
    path = model_file(path)
    document, tensors = _read(path, with_tensors=True)
    card = _card(document, path)
    if is_reference(card.arch) and card.arch not in _trusted:
        raise InputError(
            f"{path} says that the code {card.arch} makes its network, and a file does not choose what runs here: "
            f"give --trust {card.arch} (in Python `train.trust({card.arch!r})`) if that code is yours."
        )
    with torch.random.fork_rng(devices=[]):  # the random weights give way to the file's
        model = build_model(card.arch, len(card.class_names), stem=card.config.get("stem", "standard"))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        kind = f"{card.arch} of {counted(len(card.class_names), 'class', 'classes')}"
        raise InputError(f"{path} does not hold a {kind} ({reason}): train it again.") from None
    if document.get("tensors_sha256") != tensors_sha256(tensors):
        raise InputError(f"{path} is damaged (the tensors differ from their checksum): fetch or train it again.")
    # CPUs convolve and pool faster so: 25 to 40 % less time for `small`.
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False), card


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"Model {path} does not exist: run `train run` first.")
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})["model"])
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = why_unreadable(path, error)
        raise InputError(f"{path} is not a whole safetensors file ({reason}): fetch or train it again.") from None
    except (KeyError, ValueError):
        raise InputError(f"{path} is not a model of this program: use a file written by `train run`.") from None
    return document, tensors


def _card(document: Any, path: Path) -> ModelCard:
    try:
        if (document["format"], document["format_version"]) != (FORMAT_NAME, FORMAT_VERSION):
            raise InputError(
                f"{path} has the format {document['format']!r} version {document['format_version']!r}; "
                f"this program reads {FORMAT_NAME!r} version {FORMAT_VERSION}."
            )
        return ModelCard(**document["card"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} has a damaged model card ({error}): fetch or train it again.") from None


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of CPU tensors: their names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
