"""How well stylized copies can still be recognised: what classifiers of originals call the copies of held-out images.

    python agreement.py --model NORMAL-0 --model NORMAL-1 ... --shards SHARDS ... --out AGREEMENT.json

*Agreement* is the share of copies that get the class of their original, *accuracy* the share that get the label; of the
training images that a model was validated on, over all models and all copies of an image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from train.augment import image_preset
from train.dataset import PairedShards
from train.loading import hold_out
from train.models import load_model

VALIDATION_FRACTION = 0.1  # that of the studies' training
BATCH = 500


@torch.inference_mode()
def judged(folder: Path, shards: Path, seed: int) -> Tensor:
    """Return a model's class of each validation image and of its copies, and the label: (N, 1 + K + 1)."""
    model, card = load_model(folder / "model.safetensors")
    preset = image_preset(card.image_preset, card.image_size)
    _, samples, held_out = hold_out(shards, PairedShards(shards, "train"), VALIDATION_FRACTION, seed)
    images = torch.stack([preset.resize(samples[index][0]) for index in held_out.tolist()])
    called = [model(batch.float() / 255).argmax(1) for batch in torch.split(images.flatten(0, 1), BATCH)]
    labels = torch.from_numpy(samples.labels[held_out]).long()
    return torch.cat([torch.cat(called).view(len(images), -1), labels[:, None]], 1)


def shares(models: Sequence[Path], shards: Path) -> dict[str, float]:
    """Return agreement and accuracy in [0, 1]; a model's folder is called NAME-SEED."""
    found = [judged(model, shards, int(model.name.rpartition("-")[2])) for model in models]
    agreeing = [(each[:, 1:-1] == each[:, :1]).double().mean().item() for each in found]
    right = [(each[:, 1:-1] == each[:, -1:]).double().mean().item() for each in found]
    return {"agreement": sum(agreeing) / len(found), "accuracy": sum(right) / len(found), "images": len(found[0])}


def main(
    model: Annotated[list[Path], typer.Option()],
    shards: Annotated[list[Path], typer.Option()],
    out: Annotated[Path, typer.Option()],
) -> None:
    """Write the shares by the shards' folder name."""
    document = {folder.name: shares(model, folder) for folder in shards}
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
