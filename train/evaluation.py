"""Test images as every stage sees them, and accuracy on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from stylize.errors import InputError, plain_errors
from train.augmentation import ImagePreset, image_preset
from train.loading import EvaluationImages, evaluation_loader, to_pixels
from train.pairs import PairDataset


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
    preset = _preset(image_preset, image_size)
    samples = PairDataset(shards, "test")
    if len(samples) == 0:
        raise InputError(
            f"{shards} has no test images, so there is nothing to attack: make shards from a data set that has some."
        )
    return _test_images(samples, EvaluationImages(samples, preset))


def _preset(name: str, size: int) -> ImagePreset:
    preset = image_preset(name, size)
    if preset.size != size:
        raise InputError(f"The image preset {name!r} makes images of {preset.size} pixels, not {size}: check the card.")
    return preset


def _test_images(samples: PairDataset, images: EvaluationImages) -> Iterator[TestImage]:
    for index in range(len(images)):
        pixels, label = images[index]
        yield TestImage(str(samples.keys[index]), pixels.to(torch.float32).div_(255), label)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    samples: PairDataset,
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
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.autocast(device.type, enabled=False):
        for batch, labels in plain_errors(evaluation_loader(images, batch_size, workers)):
            correct += (model(to_pixels(batch, device)).argmax(1) == labels.to(device)).sum()
    model.train(was_training)
    return int(correct) / len(images)
