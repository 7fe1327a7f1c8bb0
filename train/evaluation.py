"""Accuracy of a classifier on a split."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from stylize.console import InputError
from train.augment import ImagePreset, image_preset
from train.loading import EvaluationImages, evaluation_loader, to_pixels
from train.pairs import PairedShards


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
    samples = PairedShards(shards, "test")
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


def _test_images(samples: PairedShards, images: EvaluationImages) -> Iterator[TestImage]:
    for index in range(len(images)):
        (pixels,), label = images[index]
        yield TestImage(str(samples.keys[index]), pixels.to(torch.float32).div_(255), label)


@dataclass(frozen=True)
class Metrics:
    """What a model did on images, as sums, so that those of several processes can be added.

    `pairs` counts the images that have a copy; `distance` sums their mean squared differences between logits.
    `class_images` and `class_correct` are by label.
    """

    images: int
    correct: int
    pairs: int
    copies_correct: int
    distance: float
    class_images: list[int]
    class_correct: list[int]

    @property
    def accuracy(self) -> float:
        """Accuracy on the originals, in [0, 1]."""
        return self.correct / self.images

    def summary(self) -> dict[str, float]:
        """Return the accuracy on originals and, where there are copies, on these and the distance of a pair."""
        pairs = {"copy_accuracy": self.copies_correct, "pair_distance": self.distance} if self.pairs else {}
        return {"accuracy": self.accuracy, **{name: value / self.pairs for name, value in pairs.items()}}

    def numbers(self) -> list[float]:
        """Return the sums in one list, as `from_numbers` takes it."""
        sums = (self.images, self.correct, self.pairs, self.copies_correct, self.distance)
        return [*sums, *self.class_images, *self.class_correct]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> "Metrics":
        """Return the metrics of a list that `numbers` made, or of a sum of such lists."""
        images, correct, pairs, copies_correct = map(int, numbers[:4])
        by_class = [int(number) for number in numbers[5:]]
        classes = len(by_class) // 2
        return cls(images, correct, pairs, copies_correct, numbers[4], by_class[:classes], by_class[classes:])


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
    sums = torch.zeros(5 + 2 * len(images.samples.class_names), dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    with torch.autocast(device.type, enabled=False):
        for batch, labels in evaluation_loader(images, batch_size, workers):
            if stop():
                break
            _add(sums, model(to_pixels(batch.flatten(0, 1), device)), labels.to(device))
    model.train(was_training)
    return Metrics.from_numbers(sums.tolist())


def _add(sums: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Add a batch to the sums of a `Metrics`, for logits (B · views, classes) and labels (B,)."""
    original, *copies = logits.view(len(labels), -1, logits.shape[1]).unbind(1)
    classes = (len(sums) - 5) // 2
    right = original.argmax(1) == labels
    sums[0] += len(labels)
    sums[1] += right.sum()
    if copies:
        sums[2] += len(labels)
        sums[3] += (copies[0].argmax(1) == labels).sum()
        sums[4] += (original - copies[0]).square().mean(1).sum()
    sums[5 : 5 + classes] += labels.bincount(minlength=classes)
    sums[5 + classes :] += labels[right].bincount(minlength=classes)
