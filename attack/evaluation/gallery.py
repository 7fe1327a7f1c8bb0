"""A few attacked images of each model as pictures, for the report."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attack.evaluation.config import AttackConfig
from attack.evaluation.images import ImageSet
from attack.evaluation.suite import main_attack
from attack.evaluation.target import Target

PICTURES = 3
MAGNIFIED = 20  # times the change, on grey
KEYS = ("class", "predicted", "attack", "epsilon", "original", "change", "attacked")


def attacked_pictures(
    target: Target, images: ImageSet, clean: Sequence[bool], config: AttackConfig
) -> list[dict[str, Any]]:
    """Attack the first three images that the model gets right by the suite's PGD at the largest radius.

    Each comes with what it is (`class`), what it is taken for (`predicted`), and three PNG pictures in base64:
    `original`, `change` (20 times, on grey) and `attacked`. The suite `paper` has no such attack, and no pictures.
    """
    rows = [index for index, right in enumerate(clean) if right][:PICTURES]
    if config.suite == "paper" or not rows:
        return []
    epsilon = config.epsilons[-1]
    originals, labels = images.pixels[rows], images.labels[rows]
    attacked = main_attack(config, epsilon)(target.network, originals, labels).images
    with torch.no_grad(), torch.autocast(attacked.device.type, enabled=False):
        logits = target.network(attacked)
    names, changes = target.card.class_names, 0.5 + MAGNIFIED * (attacked - originals)
    return [
        {
            "class": names[label],
            "predicted": names[row.argmax()] if row.isfinite().all() else "no class: a logit is not finite",
            "attack": "PGD",
            "epsilon": epsilon,
            "original": _png(original),
            "change": _png(change),
            "attacked": _png(moved),
        }
        for label, row, original, change, moved in zip(
            labels.tolist(), logits, originals, changes, attacked, strict=True
        )
    ]


def check_pictures(pictures: Sequence[Mapping[str, Any]]) -> None:
    """Raise `KeyError`, `TypeError` or `ValueError` where pictures of a result are damaged."""
    for picture in pictures:
        float(picture["epsilon"])
        for name in KEYS:
            picture[name]


def _png(pixels: Tensor) -> str:
    """Encode one image (3, H, W), clipped to [0, 1]."""
    levels = pixels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
