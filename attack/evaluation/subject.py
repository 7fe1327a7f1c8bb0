"""The model of an evaluation, checked against the shards that it is evaluated on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylize.errors import InputError
from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from train import ModelCard, load_model


@dataclass(frozen=True)
class Subject:
    """A model in eval mode on its device, how it sees images, and what the result says of it and of the shards."""

    model: nn.Module
    image_size: int
    image_preset: str
    manifest: Manifest
    document: Mapping[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.manifest.class_names)

    @property
    def identity(self) -> dict[str, str]:
        """Digests of the model and of the shards."""
        return {
            name: self.document[name][digest] for name, digest in (("model", "sha256"), ("shards", "manifest_sha256"))
        }


def load_subject(model_path: Path, shards: Path) -> Subject:
    """Load a model that `train run` wrote for the test split of a shard folder.

    Raises `InputError` where either is missing or damaged, or where their class names differ.
    """
    model, card = load_model(model_path)
    manifest = read_manifest(shards)
    _check_classes(model_path, card, shards, manifest)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    document = {
        "model": {"path": model_path.as_posix(), "sha256": file_sha256(model_path), "card": asdict(card)},
        "shards": _describe_shards(shards, card),
    }
    return Subject(model, card.image_size, card.image_preset, manifest, document)


def _check_classes(model_path: Path, card: ModelCard, shards: Path, manifest: Manifest) -> None:
    known, given = card.class_names, manifest.class_names
    mend = "attack it on shards of the data set that it was trained on."
    if len(known) != len(given):
        raise InputError(f"{model_path} knows {len(known)} classes but {shards} has {len(given)}: {mend}")
    for label, (ours, theirs) in enumerate(zip(known, given, strict=True)):
        if ours != theirs:
            raise InputError(f"Class {label} is {ours!r} in {model_path} but {theirs!r} in {shards}: {mend}")


def _describe_shards(shards: Path, card: ModelCard) -> dict[str, Any]:
    digest = file_sha256(shards / MANIFEST_NAME)
    return {
        "path": shards.as_posix(),
        "name": shards.resolve().name,
        "manifest_sha256": digest,
        "used_in_training": digest == card.shards_sha256,
    }
