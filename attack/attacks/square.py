"""Square: a search with random squares, without gradients (Andriushchenko et al. 2020)."""

import math
from bisect import bisect_left

import torch
from torch import Generator, Tensor, nn

from attack.attacks.attack import BATCH_SIZE, Attacked, batches, check_images, check_numbers, counting

FIRST_SHARE = 0.8  # of the picture that the first squares cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, in ten thousandths of all


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    queries: int = 1000,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Attacked:
    """Set one square after another, in each channel, to the image ± epsilon, and keep what makes the margin larger.

    The search starts with vertical stripes of ±epsilon. The squares shrink by the paper's schedule, scaled to the
    number of queries. An image is left alone once it is misclassified; returned is, for each image, the best point
    found, or the image itself where it is wrong already.

    `queries` points are tried for an image, the stripes included; the other arguments, and errors, are those of `pgd`.
    """
    check_images(model, images, labels)
    check_numbers(epsilon=epsilon, queries=queries, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    best, wrong = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    margins = torch.full(labels.shape, -math.inf, device=images.device)
    with counting(model) as counted:
        for rows in batches(~wrong, batch_size):
            wrong[rows] = counted.scores(images[rows], labels[rows], "margin")[1]
        for query in range(queries):
            inside, signs = _stripes(images, generator) if query == 0 else _squares(images, query / queries, generator)
            for rows in batches(~wrong, batch_size):
                moved = (images[rows] + epsilon * signs[rows]).clamp(0, 1)
                tried = torch.where(inside[rows], moved, best[rows])
                reached, fooled = counted.scores(tried, labels[rows], "margin")
                better = reached > margins[rows]
                taken = rows[better]
                best[taken], margins[taken], wrong[taken] = tried[better], reached[better], fooled[better]
    return Attacked(best, counted.forwards, counted.backwards)


def _stripes(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return the whole picture (N, 1, H, W) and a random sign for each of its columns and channels (N, C, 1, W)."""
    count, channels, height, width = images.shape
    signs = torch.randint(0, 2, (count, channels, 1, width), generator=generator) * 2 - 1
    return torch.ones(count, 1, height, width, dtype=torch.bool).to(images.device), signs.to(images.device)


def _squares(images: Tensor, progress: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return where each image's random square is (N, 1, H, W), and a random sign for each of its channels (N, C, 1, 1).

    `progress` is the share of the queries that is spent.
    """
    count, channels, height, width = images.shape
    share = FIRST_SHARE / 2 ** bisect_left(HALVINGS, progress * 10_000)
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    top = torch.randint(0, height - side + 1, (count, 1, 1, 1), generator=generator)
    left = torch.randint(0, width - side + 1, (count, 1, 1, 1), generator=generator)
    signs = torch.randint(0, 2, (count, channels, 1, 1), generator=generator) * 2 - 1
    row, column = torch.arange(height)[:, None], torch.arange(width)
    inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    return inside.to(images.device), signs.to(images.device)
