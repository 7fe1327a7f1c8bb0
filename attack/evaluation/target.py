"""The model under attack: opened, checked, asked for its answers."""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attack.evaluation.images import ProgressReport
from stylize.console import InputError
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from stylize.shards.shard import file_sha256
from train import ModelCard, TestImage, load_model, load_test_images
from train.augment import PAPER_SIZE
from train.checkpoint import tensors_sha256
from train.models import call_reference, is_reference

EXTERNAL = "external"  # the method of a model that this program did not train


@dataclass(frozen=True)
class OpenedModel:
    """A network in eval mode on the device to use, and what a result says of it.

    It maps float32 pixels (B, 3, H, W) in [0, 1] to logits (B, classes).  `reference` is how it was named, `sha256` is
    of the model's file or, where there is none, of its tensors, name and code.
    """

    network: nn.Module
    card: ModelCard
    reference: str
    sha256: str

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU if it has no tensors."""
        return next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))


def open_model(model: str | Path | nn.Module, shards: Path) -> OpenedModel:
    """Open a model for the test images of a shard folder.

    Args:
        model: the path of a file that `train run` wrote; `package.module:function`, whose call without arguments
            returns a network; or a network itself, which is put into eval mode and moved.  A network may name its
            classes in an attribute `class_names`; otherwise it has those of the shards.
        shards: the shard folder; it gives the images' size where there is no model file.

    Raises:
        InputError: there is no such file or function, it is damaged or no network, it fails on images of that size, or
            its classes are not those of the shards.
    """
    manifest = read_manifest(shards)
    if isinstance(model, nn.Module):
        opened = _external(model, type(model).__name__, manifest)
    elif is_reference(str(model)):
        network = call_reference(str(model)).requires_grad_(False)
        opened = _external(network, str(model), manifest)
    else:
        network, card = load_model(Path(model))
        opened = OpenedModel(network, card, Path(model).as_posix(), file_sha256(Path(model)))
    _check_classes(opened, shards, manifest)
    opened.network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    _check_outputs(opened)
    return opened


def _external(network: nn.Module, reference: str, manifest: Manifest) -> OpenedModel:
    """Describe a network that this program did not train; images come to it in the shards' own size, if they have one.

    Its seed is -1, and what it was trained on is unknown.
    """
    size = manifest.spec.get("size")
    names = getattr(network, "class_names", manifest.class_names)
    if isinstance(names, str | Tensor) or not isinstance(names, Sequence):
        raise InputError(f"Model {reference} has class_names that are no list of names: mend or remove them.")
    card = ModelCard(
        arch=reference.rpartition(":")[2],
        method=EXTERNAL,
        class_names=[str(name) for name in names],
        image_size=size or PAPER_SIZE,
        image_preset="small" if size else "paper",
        seed=-1,
        shards_sha256="",
        versions={},
    )
    return OpenedModel(network, card, reference, _digest(network, reference))


def _digest(network: nn.Module, reference: str) -> str:
    """Return a SHA-256 of a network's tensors, of its name, and of the files that hold its code and its function's.

    The same tensors may serve several functions, whose results must not be mixed.
    """
    tensors = {name: value.detach().cpu() for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    digest = hashlib.sha256(f"{tensors_sha256(tensors)} {reference}".encode())
    modules = {type(module).__module__ for module in network.modules()} | {reference.partition(":")[0]}
    for name in sorted(modules - {""}):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and not name.startswith("torch."):  # whose version a result states
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _check_classes(opened: OpenedModel, shards: Path, manifest: Manifest) -> None:
    known, given = opened.card.class_names, manifest.class_names
    mend = "attack it on shards of the data set that it was trained on."
    if len(known) != len(given):
        raise InputError(f"{opened.reference} knows {len(known)} classes but {shards} has {len(given)}: {mend}")
    for label, (ours, theirs) in enumerate(zip(known, given, strict=True)):
        if ours != theirs:
            raise InputError(f"Class {label} is {ours!r} in {opened.reference} but {theirs!r} in {shards}: {mend}")


@torch.no_grad()
def _check_outputs(opened: OpenedModel) -> None:
    """Show the network one grey image, and raise `InputError` where it does not answer with a row of logits."""
    size, classes = opened.card.image_size, len(opened.card.class_names)
    image = torch.full((1, 3, size, size), 0.5, device=opened.device)
    try:
        outputs = opened.network(image)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"Model {opened.reference} fails on an image of 3 × {size} × {size} ({reason}): "
            "give one that takes the shards' images, float32 pixels in [0, 1]."
        ) from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"Model {opened.reference} returns {type(outputs).__name__}: return the logits alone.")
    if outputs.shape != (1, classes):
        found = " × ".join(map(str, outputs.shape))
        raise InputError(f"Model {opened.reference} returns {found} numbers an image, not {classes} logits.")


@dataclass(frozen=True)
class Target:
    """A model in eval mode on its device, how it sees images, and what the result says of it and of the shards."""

    model: nn.Module
    device: torch.device
    image_size: int
    image_preset: str
    classes: int
    test_images: int
    document: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, str]:
        """Digests of the model and of the shards."""
        return {"model": self.document["model"]["sha256"], "shards": self.document["shards"]["manifest_sha256"]}


def load_target(model: str | Path | nn.Module, shards: Path) -> Target:
    """Open a model (see `open_model`) for the test split of a shard folder.

    Raises `InputError` where either is missing or damaged, or where their class names differ.
    """
    opened = open_model(model, shards)
    card, manifest = opened.card, read_manifest(shards)
    digest = file_sha256(shards / MANIFEST_NAME)
    document = {
        "model": {"path": opened.reference, "sha256": opened.sha256, "card": asdict(card)},
        "shards": {
            "path": shards.as_posix(),
            "name": shards.resolve().name,
            "manifest_sha256": digest,
            "used_in_training": digest == card.shards_sha256,
        },
    }
    tests = manifest.samples("test")
    return Target(
        opened.network, opened.device, card.image_size, card.image_preset, len(card.class_names), tests, document
    )


@contextmanager
def without_tf32() -> Iterator[None]:
    """Leave TensorFloat-32 out of convolutions: on some GPUs it silently rounds them to ten bits.

    `torch.backends.cudnn.flags` would switch cuDNN itself off.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Prediction:
    """The label of a test image, and the class that a model takes it for."""

    key: str
    label: int
    predicted: int


def predict(target: Target, pixels: Tensor) -> list[int]:
    """Return the classes that a model takes images (B, 3, H, W) for, without autocast or TensorFloat-32."""
    device = target.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False), without_tf32():
        classes: list[int] = target.model(pixels.to(device)).argmax(1).tolist()
    return classes


def image_batches(
    target: Target, shards: Path, batch_size: int, keys: set[str] | None = None
) -> Iterator[list[TestImage]]:
    """Yield the test images of a shard folder in batches, or those of some keys."""
    images = load_test_images(shards, target.image_size, target.image_preset)
    chosen = (image for image in images if keys is None or image.key in keys)
    while batch := list(islice(chosen, batch_size)):
        yield batch


def predict_split(target: Target, shards: Path, batch_size: int, progress: ProgressReport) -> list[Prediction]:
    """Return a prediction for every test image of a shard folder."""
    predictions: list[Prediction] = []
    for batch in image_batches(target, shards, batch_size):
        classes = predict(target, torch.stack([image.pixels for image in batch]))
        predictions += [Prediction(image.key, image.label, each) for image, each in zip(batch, classes, strict=True)]
        progress("Classify", len(predictions), target.test_images)
    return predictions
