"""The model of an evaluation beside the shards that it is evaluated on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attack.evaluation.models import open_model
from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME, read_manifest


@dataclass(frozen=True)
class Subject:
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


def load_subject(model: str | Path | nn.Module, shards: Path) -> Subject:
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
    return Subject(
        opened.network, opened.device, card.image_size, card.image_preset, len(card.class_names), tests, document
    )
