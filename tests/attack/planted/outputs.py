"""Undefended networks whose outputs hide the way: saturated, flattened, not finite, or given away from data only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attack.planted.wrapping import Builder, after, far, off_grid


class AwayFromData(nn.Module):
    """Changes the logits of images that are farther than a radius from all clean test images."""

    def __init__(self, network: nn.Module, radius: float, change: str) -> None:
        super().__init__()
        self.network, self.radius, self.change = network, radius, change

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        away = far(images, self.radius)[:, None]
        return torch.where(away, _changed(logits, self.change), logits)


def _changed(logits: Tensor, change: str) -> Tensor:
    if change == "uniform":
        return torch.zeros_like(logits)
    if change == "constant":
        return torch.arange(logits.shape[1]).to(logits).expand_as(logits)
    if change == "infinite":
        return logits * torch.inf
    return torch.full_like(logits, torch.nan)


class OffGrid(nn.Module):
    """Answers with numbers that are none where pixels are not those of an 8-bit file."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        return torch.where(off_grid(images)[:, None], torch.nan, logits)


class Detector(nn.Module):
    """Rejects what looks attacked, by how much smoothing changes the answer: with logits without a gradient."""

    def __init__(self, network: nn.Module, threshold: float) -> None:
        super().__init__()
        self.network, self.threshold = network, threshold

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        smoothed: Tensor = self.network(0.9 * images + 0.1 * F.avg_pool2d(images, 3, 1, 1))
        change = (logits - smoothed).abs().amax(1, keepdim=True)
        return torch.where(change > self.threshold, torch.zeros_like(logits), logits)


class LowPrecision(nn.Module):
    """Computes in a type of 16 bits: by autocast, or with its parameters."""

    def __init__(self, network: nn.Module, kind: torch.dtype, *, autocast: bool) -> None:
        super().__init__()
        self.network = network if autocast else network.to(kind)
        self.kind, self.autocast = kind, autocast

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        if not self.autocast:
            logits: Tensor = self.network(images.to(self.kind))
            return logits.float()
        with torch.autocast(images.device.type, self.kind):
            logits = self.network(images)
        return logits.float()


class HighestOfViews(nn.Module):
    """Takes each logit's highest value over four views of the image, after a square."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        views = [images, images * 0.98, images * 0.98 + 0.02, 0.5 + (images - 0.5) * 0.95]
        logits = torch.stack([self.network(view) for view in views])
        return (logits.amax(0) - logits.mean(0).amin(1, keepdim=True)).clamp_min(0) ** 3


class DecoyClass(nn.Module):
    """Lifts the nearest class, or the next one, to a little below the largest logit, with a slope that misleads."""

    pattern: Tensor

    def __init__(self, network: nn.Module, *, nearest: bool) -> None:
        super().__init__()
        self.network, self.nearest = network, nearest
        self.register_buffer("pattern", torch.randint(0, 2, (3, 16, 16)) * 2.0 - 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        largest, order = logits.topk(2, dim=1)
        decoy = order[:, 1] if self.nearest else (order[:, 0] + 1) % logits.shape[1]
        below = 0.2 - 0.1 * (100 * (images * self.pattern.to(images)).mean((1, 2, 3))).tanh()
        return logits.scatter(1, decoy[:, None], (largest[:, 0] - below)[:, None])


class Quota(nn.Module):
    """Raises an error after so many images."""

    def __init__(self, network: nn.Module, images: int) -> None:
        super().__init__()
        self.network, self.left = network, images

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        self.left -= len(images)
        if self.left < 0:
            raise PermissionError("No queries are left.")
        logits: Tensor = self.network(images)
        return logits


class Raises(nn.Module):
    """Raises an error where pixels leave the 8-bit grid, and gradients are asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        if images.requires_grad and bool(off_grid(images).any()):
            raise ValueError("These are no 8-bit images.")
        logits: Tensor = self.network(images)
        return logits


def one_hot(logits: Tensor) -> Tensor:
    """Return 10 for the answer and 0 for the others."""
    return 10 * F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


def dark_half(logits: Tensor) -> Tensor:
    """Round logits to whole numbers."""
    return logits.round() + 0.01 * logits.detach()


def powered(logits: Tensor) -> Tensor:
    """Raise logits to a power that keeps their order and leaves little between the second and the others."""
    return (logits - logits.amax(1, keepdim=True).detach()).exp() ** 8


OUTPUTS: dict[str, Builder] = {
    "logits times 1e3": after(lambda z: 1e3 * z),
    "logits times 1e30": after(lambda z: 1e30 * z),
    "logits times 1e-38": after(lambda z: 1e-38 * z),
    "softmax": after(lambda z: z.softmax(1)),
    "sharp softmax": after(lambda z: (20 * z).softmax(1)),
    "softmax, rounded": after(lambda z: (z.softmax(1) * 100).round() / 100),
    "sigmoid": after(lambda z: (5 * z).sigmoid()),
    "logits clipped": after(lambda z: (20 * z).clamp(-1, 1) + 1e-3 * z.detach()),
    "saturated tanh": after(lambda z: (z * 3).tanh() * 10 + 0.01 * z.detach()),
    "one-hot": after(one_hot),
    "ranks": after(lambda z: z.argsort(1).argsort(1).to(z)),
    "rounded logits": after(dark_half),
    "powers of probabilities": after(powered),
    "constant logits away from data": lambda network: AwayFromData(network, 1.5 / 255, "constant"),
    "uniform logits away from data": lambda network: AwayFromData(network, 1.5 / 255, "uniform"),
    "NaN away from data": lambda network: AwayFromData(network, 1.5 / 255, "nan"),
    "infinite logits away from data": lambda network: AwayFromData(network, 4 / 255, "infinite"),
    "NaN off the 8-bit grid": OffGrid,
    "detector that rejects": lambda network: Detector(network, 2.5),
    "bfloat16 autocast": lambda network: LowPrecision(network, torch.bfloat16, autocast=True),
    "bfloat16 parameters": lambda network: LowPrecision(network, torch.bfloat16, autocast=False),
    "float16 parameters": lambda network: LowPrecision(network, torch.float16, autocast=False),
    "highest of four views": HighestOfViews,
    "float16 logits": after(Tensor.half),
    "error off the 8-bit grid": Raises,
    "decoy for the nearest class": lambda network: DecoyClass(network, nearest=True),
    "decoy class": lambda network: DecoyClass(network, nearest=False),
    "integer outputs": after(lambda z: F.one_hot(z.argmax(1), 5)),
    "error after 2000 images": lambda network: Quota(network, 2000),
}
