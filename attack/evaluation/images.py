"""The images that every model meets, chosen by hash."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylize.console import InputError, option_name
from train import load_test_images
from train.pairs import PairedShards

ProgressReport = Callable[[str, int, int], None]  # (what is being done, how much of it is done, how much there is)


@dataclass(frozen=True)
class ImageSet:
    """N test images in hash order: keys, float32 pixels (N, 3, H, W) in [0, 1] and int64 labels (N,)."""

    keys: tuple[str, ...]
    pixels: Tensor
    labels: Tensor

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels as 8-bit levels: what tells whether two evaluations were on the same images."""
        return hashlib.sha256(self.pixels.mul(255).round().byte().cpu().numpy().tobytes()).hexdigest()


def check_positive(**counts: int) -> None:
    """Raise `InputError` for the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{option_name(name)} is {count}: give 1 or more.")


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
    found = {image.key: image for image in load_test_images(shards, image_size, image_preset) if image.key in wanted}
    pixels = torch.stack([found[key].pixels for key in keys])
    labels = torch.tensor([found[key].label for key in keys])
    return ImageSet(tuple(keys), pixels.to(device), labels.to(device))
