"""Undefended networks whose answer depends on earlier queries."""

from typing import Literal

import torch
from torch import Tensor, nn

from tests.attack.planted.wrapping import Builder, chosen, per_image

NEAR = 10 / 255  # farther than any attack within 8/255


class SharedMemory(list[tuple[Tensor, Tensor]]):
    """A memory that copies of a model share, as one on a server is."""

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
        remembered = chosen(images, self.share).tolist()
        rows = zip(images.detach().flatten(1), logits, remembered, strict=True)
        return torch.stack([self._recall(image, answer) if known else answer for image, answer, known in rows])

    def _recall(self, image: Tensor, answer: Tensor) -> Tensor:
        if self.memory:
            known = torch.stack([pixels for pixels, _ in self.memory]).to(image)
            distance, place = (known - image).abs().amax(1).min(0)
            if float(distance) < NEAR:
                return self._like(self.memory[int(place)][1], answer)
        self.memory.append((image.float(), answer.detach().float()))
        return answer

    def _like(self, recalled: Tensor, answer: Tensor) -> Tensor:
        if self.recalls == "logits":
            return recalled.to(answer)
        order = torch.arange(len(answer))
        first, wanted = int(answer.argmax()), int(recalled.argmax())
        order[first], order[wanted] = wanted, first
        return answer[order]


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
    "not a number every second call": NotANumberOnSecondCall,
    "statistics of each batch": StatisticsOfBatches,
}
