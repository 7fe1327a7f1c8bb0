"""Models under attack that answer for another: on average over draws, or with the gradient of a surrogate."""

import torch
from torch import Tensor, nn

from stylize.console import InputError


class Averaged(nn.Module):
    """The mean logits of several draws of a random model, and with them the mean of their gradients.

    So attacks follow the expectation over the model's randomness (EOT, Athalye et al. 2018).
    """

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model = model
        self.draws = draws

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W)."""
        logits: Tensor = sum(self.model(images) for _ in range(self.draws)) / self.draws
        return logits


class WithGradientOf(nn.Module):
    """The logits of a model with the gradient of a surrogate (BPDA, Athalye et al. 2018)."""

    def __init__(self, model: nn.Module, surrogate: nn.Module) -> None:
        super().__init__()
        self.model, self.surrogate = model, surrogate

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W); raise `InputError` where the surrogate has others."""
        logits: Tensor = self.model(images.detach())
        if not (images.requires_grad and torch.is_grad_enabled()):
            return logits
        gives_way: Tensor = self.surrogate(images)
        if gives_way.shape != logits.shape:
            found, wanted = tuple(gives_way.shape), tuple(logits.shape)
            raise InputError(f"The surrogate's logits have the shape {found}: give a network that returns {wanted}.")
        return logits.detach() + gives_way - gives_way.detach()
