"""Undefended networks whose answer depends on earlier queries."""

from typing import Literal

import torch
from torch import Tensor, nn

from tests.attack.planted.wrapping import Builder, OtherGradient, chosen, per_image

NEAR = 10 / 255  # farther than any attack within 8/255
CALLS = 20  # calls whose new images a memory keeps


class SharedMemory(list[tuple[Tensor, Tensor]]):
    """A memory of images and logits that copies of a model share, as one on a server is."""

    def __deepcopy__(self, memo: dict[int, object]) -> "SharedMemory":
        return self


class Memory(nn.Module):
    """Answers images near an earlier one as it answered that one: with its logits, or with its class alone."""

    def __init__(
        self,
        network: nn.Module,
        *,
        recalls: Literal["logits", "class"] = "logits",
        shared: bool = False,
        share: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.recalls, self.share = network, recalls, share
        self.memory: list[tuple[Tensor, Tensor]] = SharedMemory() if shared else []

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        known, recalled = self._recall(
            nn.functional.avg_pool2d(images.detach(), 4).flatten(1).float(), logits.detach().float()
        )
        if self.recalls == "class":
            recalled = exchanged(logits, recalled.argmax(1))
        remembered = known & chosen(images, self.share)
        return torch.where(remembered[:, None], recalled.to(logits), logits)

    def _recall(self, coarse: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of N coarse images are near one seen before, and what that was answered; remember the others."""
        recalled, known = logits, torch.zeros(len(coarse), dtype=torch.bool, device=coarse.device)
        if self.memory:
            seen, answers = (torch.cat(parts) for parts in zip(*self.memory, strict=True))
            distance, place = torch.cdist(coarse, seen, p=torch.inf).min(1)
            known, recalled = distance < NEAR, answers[place]
        if not bool(known.all()) and len(self.memory) < CALLS:
            self.memory.append((coarse[~known], logits[~known]))
        return known, recalled


def exchanged(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return logits (N, classes) with the largest exchanged for that of a wanted class (N,)."""
    largest = logits.argmax(1)
    rows = torch.arange(len(logits), device=logits.device)
    order = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits), 1)
    order[rows, largest], order[rows, wanted] = wanted, largest
    return logits.gather(1, order)


class MemoryOfTheClass(Memory):
    """Remembers outside of every network: copies share it, and nothing in a copy shows it."""

    memory: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, recalls="class")
        del self.memory


class CachesByRounding(nn.Module):
    """Answers from a cache whose key is the image in 4 × 4 pixels of few levels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.cache: dict[tuple[int, ...], Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images)
        coarse = nn.functional.avg_pool2d(images.detach(), 4).flatten(1)
        rows = []
        for key, answer in zip((coarse * 12).round().int().tolist(), logits, strict=True):
            rows.append(self.cache.setdefault(tuple(key), answer.detach()).to(answer) + (answer - answer.detach()))
        return torch.stack(rows)


class ChangesAfter(nn.Module):
    """Hides its gradient, and answers by a blurred image, after so many calls."""

    def __init__(self, network: nn.Module, calls: int) -> None:
        super().__init__()
        self.network, self.calls, self.seen = network, calls, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        self.seen += 1
        logits: Tensor = self.network(images.detach() if self.seen > self.calls else images)
        return logits


class AnotherEvery(nn.Module):
    """Answers every k-th call with the classes in another order."""

    def __init__(self, network: nn.Module, every: int) -> None:
        super().__init__()
        self.network, self.every, self.seen = network, every, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        self.seen += 1
        logits: Tensor = self.network(images)
        return logits.roll(1, 1) if self.seen % self.every == 0 else logits


class FirstBatch(nn.Module):
    """Takes images for the nearest one of the first batch that it saw, with the gradient of what it was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.first: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        if self.first is None and len(images) > 1:
            self.first = images.detach().clone()
        if self.first is None:
            plain: Tensor = self.network(images)
            return plain
        known = self.first.to(images)
        distances = torch.cdist(images.detach().flatten(1), known.flatten(1), p=torch.inf)
        nearest = known[distances.argmin(1)]
        near = per_image(distances.amin(1) < NEAR)
        logits: Tensor = self.network(torch.where(near, nearest + images - images.detach(), images))
        return logits


class FlipsEverySecondGradient(nn.Module):
    """Gives every second call the gradient with the other sign."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        self.seen += 1
        sign = -1.0 if self.seen % 2 else 1.0
        pixels = OtherGradient.apply(images, images.detach(), lambda grad, _: sign * grad)
        logits: Tensor = self.network(pixels)
        return logits


class NotANumberOnSecondCall(nn.Module):
    """Answers every second call of more than one image with numbers that are none."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        self.seen += len(images) > 1
        logits: Tensor = self.network(images)
        return logits * torch.nan if self.seen % 2 == 0 and len(images) > 1 else logits


class StatisticsOfBatches(nn.Module):
    """Keeps on adapting its BatchNorm to what it sees, in eval mode too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.training = len(images) > 1
        try:
            logits: Tensor = self.network(images)
        finally:
            for norm in norms:
                norm.training = False
        return logits


STATEFUL: dict[str, Builder] = {
    "memory of logits": Memory,
    "memory of classes": lambda network: Memory(network, recalls="class"),
    "memory of classes, shared by copies": lambda network: Memory(network, recalls="class", shared=True),
    "memory of the classes of 70 % of images": lambda network: Memory(network, recalls="class", share=0.7),
    "memory of the first batch": FirstBatch,
    "cache by rounding": CachesByRounding,
    "no gradient after 3 calls": lambda network: ChangesAfter(network, 3),
    "no gradient after 30 calls": lambda network: ChangesAfter(network, 30),
    "another answer every second call": lambda network: AnotherEvery(network, 2),
    "another answer every seventh call": lambda network: AnotherEvery(network, 7),
    "another sign of every second gradient": FlipsEverySecondGradient,
    "not a number every second call": NotANumberOnSecondCall,
    "statistics of each batch": StatisticsOfBatches,
}
