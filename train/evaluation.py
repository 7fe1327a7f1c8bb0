"""Accuracy of a classifier on a split."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from stylize.console import InputError
from train.augment import ImagePreset
from train.augment import image_preset as make_preset
from train.dataset import PairedShards
from train.loading import EvaluationImages, evaluation_loader, to_pixels


@dataclass(frozen=True)
class TestImage:
    """A test image: its key in the shards, float32 pixels (3, size, size) in [0, 1], and its label."""

    __test__: ClassVar[bool] = False  # pytest takes every class named Test... for a test

    key: str
    pixels: Tensor
    label: int


def load_test_images(shards: Path, image_size: int, image_preset: str) -> Iterator[TestImage]:
    """Yield the test split in its order, lazily, with the very pixels that `train` computes test accuracy on.

    `image_size` and `image_preset` are those of a model's card.  Raises `InputError` at the call, not at the first
    image, for a folder without test images or a preset that does not make images of that size.
    """
    preset = make_preset(image_preset, image_size)
    if preset.size != image_size:
        raise InputError(
            f"The image preset {image_preset!r} makes images of {preset.size} pixels, not {image_size}: check the card."
        )
    samples = PairedShards(shards, "test")
    if len(samples) == 0:
        raise InputError(f"{shards} has no test images to attack: make shards from a data set that has some.")
    images = EvaluationImages(samples, preset)
    numbered = zip(samples.keys, map(images.__getitem__, range(len(images))), strict=True)
    return (TestImage(str(key), views[0].to(torch.float32).div_(255), label) for key, (views, label) in numbered)


@dataclass(frozen=True)
class Metrics:
    """What a model did on images, as sums, so that those of several processes can be added.

    `by_class` (classes, 5), float64, has for each label the images, how many of them are right, those with a copy, how
    many copies are right, and the sum of the mean squared differences between a pair's logits.
    """

    by_class: Tensor

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.by_class[:, 0].sum())

    @property
    def accuracy(self) -> float:
        """Accuracy on the originals, in [0, 1]."""
        return float(self.by_class[:, 1].sum()) / self.images

    def summary(self) -> dict[str, float]:
        """Return the accuracy on originals and, where there are copies, on these and the distance of a pair."""
        _, _, pairs, right, distance = self.by_class.sum(0).tolist()
        copies = {"copy_accuracy": right / pairs, "pair_distance": distance / pairs} if pairs else {}
        return {"accuracy": self.accuracy, **copies}


def evaluate(
    model: nn.Module,
    samples: PairedShards,
    preset: ImagePreset,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
    workers: int = 0,
) -> float:
    """Return the accuracy in [0, 1] on the originals, in eval mode and float32 without autocast.

    `indices` restricts it to some samples.  The model's mode is restored.  Raises `InputError` for no images.
    """
    images = EvaluationImages(samples, preset, indices)
    if len(images) == 0:
        raise InputError("There is no image to evaluate on: check the split.")
    return count(model, images, batch_size, workers).accuracy


@torch.no_grad()
def count(
    model: nn.Module,
    images: EvaluationImages,
    batch_size: int = 256,
    workers: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Metrics:
    """Count what a model gets right, in eval mode and float32 without autocast, until `stop` says so.

    The model's mode is restored.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(len(images.samples.class_names), 5, dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    with torch.autocast(device.type, enabled=False):
        for batch, labels in evaluation_loader(images, batch_size, workers):
            if stop():
                break
            logits, labels = model(to_pixels(batch.flatten(0, 1), device)), labels.to(device)
            sums.index_add_(0, labels, _measured(logits.view(*batch.shape[:2], -1), labels).double())
    model.train(was_training)
    return Metrics(sums.cpu())


def _measured(logits: Tensor, labels: Tensor) -> Tensor:
    """Return what a `Metrics` adds up, (B, 5), of the logits (B, 1 or 2, classes) of images with labels (B,)."""
    right, there = logits.argmax(2) == labels[:, None], torch.ones_like(labels)
    if logits.shape[1] == 1:
        return torch.stack([there, right[:, 0], *3 * [torch.zeros_like(labels)]], 1)
    return torch.stack([there, right[:, 0], there, right[:, 1], (logits[:, 0] - logits[:, 1]).square().mean(1)], 1)
