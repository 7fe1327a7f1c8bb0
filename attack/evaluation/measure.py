"""The passes over images: which a model classifies correctly, and what the attack does to the chosen ones."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from attack.attacks.fgsm import AttackPath, fgsm_path, join_paths
from attack.attacks.protocol import Protocol
from attack.evaluation.candidates import Candidates
from train import TestImage

ProgressReport = Callable[[str, int, int], None]  # (what is being done, images done, images in all)


def classify_images(
    model: nn.Module, images: Iterable[TestImage], batch_size: int, total: int, progress: ProgressReport
) -> dict[str, bool]:
    """Return by key whether the model, in eval mode, classifies each image correctly; holds one batch in memory."""
    correct: dict[str, bool] = {}
    device = _device(model)
    for batch in _batches(images, batch_size):
        pixels = torch.stack([image.pixels for image in batch]).to(device)
        with torch.no_grad():
            predicted = model(pixels).argmax(1).tolist()
        correct.update((image.key, label == image.label) for image, label in zip(batch, predicted, strict=True))
        progress("Classify test images", len(correct), total)
    return correct


def collect_images(images: Iterable[TestImage], candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Return the chosen images' pixels (N, 3, H, W) and labels (N,) in the candidates' order."""
    wanted = set(candidates.keys)
    chosen = {image.key: image for image in images if image.key in wanted}
    pixels = torch.stack([chosen[key].pixels for key in candidates.keys])
    return pixels, torch.tensor([chosen[key].label for key in candidates.keys])


def attack_images(
    model: nn.Module, pixels: Tensor, labels: Tensor, protocol: Protocol, progress: ProgressReport
) -> AttackPath:
    """Attack N images (N, 3, H, W) in batches and return their paths, joined on the CPU."""

    def paths() -> Iterator[AttackPath]:
        done = 0
        for batch in torch.split(torch.arange(len(pixels)), protocol.batch_size):
            yield fgsm_path(
                model,
                pixels[batch].to(_device(model)),
                labels[batch].to(_device(model)),
                step_size=protocol.step_size,
                steps=protocol.steps,
                zero_gradient=protocol.zero_gradient,
            )
            done += len(batch)
            progress("Attack", done, len(pixels))

    return join_paths(paths())


def _batches(images: Iterable[TestImage], size: int) -> Iterator[list[TestImage]]:
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
