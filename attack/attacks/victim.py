"""The attacked model: its arguments checked, its parameters frozen, its passes counted."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attack.attacks.losses import Loss, attack_loss
from stylize.errors import InputError


class Victim(nn.Module):
    """A model that counts the images that go through it, in each direction, and runs in float32 without autocast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False
        self.forwards = 0
        self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        self.forwards += len(images)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.model(images)
        if images.requires_grad and not logits.requires_grad:  # a cut graph: zero gradients, for AutoAttack's code too
            logits = logits + 0 * images.flatten(1).sum(1, keepdim=True)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def scores(self, images: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """Return, for each image, its loss and whether it is misclassified, both (B,)."""
        with torch.no_grad():
            logits = self(images)
        return attack_loss(loss, logits, labels), logits.argmax(1) != labels

    def gradients(self, images: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Return `scores` and the gradient (B, C, H, W) of each image's own loss."""
        pixels = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = self(pixels)
            losses = attack_loss(loss, logits, labels)
            gradient = input_gradient(losses, pixels)
        return losses.detach(), logits.detach().argmax(1) != labels, gradient


def input_gradient(values: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of the sum of `values` by images (B, C, H, W); zeros where the model cuts its graph."""
    found = torch.autograd.grad(values.sum(), images, allow_unused=True)[0] if values.requires_grad else None
    return torch.zeros_like(images) if found is None else found


@contextmanager
def attacked(model: nn.Module) -> Iterator[Victim]:
    """Freeze the parameters while a model is attacked: no gradient of theirs is computed or left behind."""
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learnable:
        parameter.requires_grad_(False)
    try:
        yield Victim(model)
    finally:
        for parameter in learnable:
            parameter.requires_grad_(True)


def check_images(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise `InputError` unless every module is in eval mode and the images and labels are what attacks expect."""
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise InputError(f"{len(training)} modules are in training mode (first: {training[0]}): call model.eval().")
    if images.ndim != 4 or images.dtype != torch.float32:
        raise InputError(f"The images are {images.dtype} {tuple(images.shape)}: give float32 of shape (B, C, H, W).")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(f"The labels are {labels.dtype} {tuple(labels.shape)}: give int64 of shape ({len(images)},).")
    if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
        low, high = images.amin().item(), images.amax().item()
        raise InputError(f"The pixels lie in [{low:g}, {high:g}]: scale them to [0, 1] and normalise inside the model.")


def check_counts(**counts: int) -> None:
    """Raise `InputError` for a number of steps, restarts, queries or the like below 1."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name.replace('_', ' ').capitalize()} is {count}: give 1 or more.")


def check_sizes(**sizes: float) -> None:
    """Raise `InputError` for a radius or step that is not a positive number."""
    for name, size in sizes.items():
        if not (math.isfinite(size) and size > 0):
            raise InputError(f"{name.replace('_', ' ').capitalize()} is {size}: give a number above 0.")


def batches(left: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield the indices where `left` (N,) is true, at most `batch_size` at a time."""
    rows = left.nonzero()[:, 0]
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]
