"""The images that every model meets, chosen by hash."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from train import TestImage, load_test_images
from train.pairs import PairedShards

ProgressReport = Callable[[str, int, int], None]  # (what is being done, how much of it is done, how much there is)


@dataclass(frozen=True)
class ImageSet:
    """N test images in hash order: keys, float32 pixels (N, 3, H, W) in [0, 1] and int64 labels (N,)."""

    keys: tuple[str, ...]
    pixels: Tensor
    labels: Tensor


def image_order(keys: Iterable[str], seed: int = 0) -> list[str]:
    """Sort keys by the SHA-256 of "seed:key": an order that depends on no model and not on the order of the keys."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())


def choose_images(shards: Path, images: int, seed: int) -> tuple[str, ...]:
    """Return the keys of a shard folder's first `images` test images in hash order, or of all where there are fewer."""
    keys = (str(key) for key in PairedShards(shards, "test").keys)
    return tuple(image_order(keys, seed)[:images])


def load_image_set(
    shards: Path, image_size: int, image_preset: str, keys: Sequence[str], device: str | torch.device = "cpu"
) -> ImageSet:
    """Return the images of these keys on a device, with the very pixels that `train` computes test accuracy on."""
    wanted = set(keys)
    tests = load_test_images(shards, image_size, image_preset)
    found = {image.key: image for image in tests if image.key in wanted}
    pixels = torch.stack([found[key].pixels for key in keys])
    labels = torch.tensor([found[key].label for key in keys])
    return ImageSet(tuple(keys), pixels.to(device), labels.to(device))


def classify_split(
    model: nn.Module,
    tests: Iterable[TestImage],
    *,
    device: torch.device,
    batch_size: int,
    total: int,
    progress: ProgressReport,
) -> dict[str, bool]:
    """Return by key whether the model, in eval mode, classifies each image correctly; holds one batch in memory."""
    correct: dict[str, bool] = {}
    for batch in _batches(tests, batch_size):
        pixels = torch.stack([image.pixels for image in batch]).to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            predicted = model(pixels).argmax(1).tolist()
        correct.update((image.key, label == image.label) for image, label in zip(batch, predicted, strict=True))
        progress("Test images", len(correct), total)
    return correct


def _batches(images: Iterable[TestImage], size: int) -> Iterator[list[TestImage]]:
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch
