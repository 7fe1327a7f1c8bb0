"""What a model takes images for: classes, in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from attack.evaluation.images import ProgressReport
from attack.evaluation.subject import Subject
from train import TestImage, load_test_images


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


def predict(subject: Subject, pixels: Tensor) -> list[int]:
    """Return the classes that a model takes images (B, 3, H, W) for, without autocast or TensorFloat-32."""
    device = subject.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False), without_tf32():
        classes: list[int] = subject.model(pixels.to(device)).argmax(1).tolist()
    return classes


def image_batches(
    subject: Subject, shards: Path, batch_size: int, keys: set[str] | None = None
) -> Iterator[list[TestImage]]:
    """Yield the test images of a shard folder in batches, or those of some keys."""
    images = load_test_images(shards, subject.image_size, subject.image_preset)
    chosen = (image for image in images if keys is None or image.key in keys)
    while batch := list(islice(chosen, batch_size)):
        yield batch


def predict_split(subject: Subject, shards: Path, batch_size: int, progress: ProgressReport) -> list[Prediction]:
    """Return a prediction for every test image of a shard folder."""
    predictions: list[Prediction] = []
    for batch in image_batches(subject, shards, batch_size):
        classes = predict(subject, torch.stack([image.pixels for image in batch]))
        predictions += [Prediction(image.key, image.label, each) for image, each in zip(batch, classes, strict=True)]
        progress("Classify", len(predictions), subject.test_images)
    return predictions
