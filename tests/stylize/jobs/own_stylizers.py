"""Stylizers as users write them, right and wrong."""

import time
from typing import Any

import numpy as np
import torch

from stylize.networks.stylizer import Pixels

seen: list[tuple[Pixels, list[int], list[Pixels]]] = []


def invert(images: Pixels, choice: list[int], styles: list[Pixels]) -> Pixels:
    seen.append((images, choice, styles))
    return 255 - images


def slow(images: Pixels, choice: list[int], styles: list[Pixels]) -> Pixels:
    """Take time without work, for runs that are stopped in the middle."""
    time.sleep(0.03)
    return 255 - images


class Noise:
    name, version, parameters, batch_size, needs_styles = "noise", "1.2", {"std": 20}, 2, False

    def __call__(
        self, images: Pixels, choice: list[int], styles: list[Pixels], seeds: list[int], alphas: list[float]
    ) -> Pixels:
        assert (styles, set(choice), len(images) <= 2) == ([], {0}, True)
        out = np.empty_like(images)
        for at, (seed, alpha) in enumerate(zip(seeds, alphas, strict=True)):
            noise = np.random.default_rng(seed).normal(0, 20 * alpha, images[at].shape)
            out[at] = np.clip(images[at] + noise, 0, 255).astype(np.uint8)
        return out


class Network(torch.nn.Module):
    """A network is a stylizer: its method `parameters` declares nothing, its weights are in the hash of the code."""

    start = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(self.start))

    def forward(self, images: Pixels, choice: list[int], styles: list[Pixels], seeds: list[int]) -> Pixels:
        assert len(seeds) == len(images)
        scaled: Pixels = (images * self.scale.item()).astype(np.uint8)
        return scaled


def floats(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    return images / 255


def nan(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    return np.full(images.shape, np.nan, np.float32)


def too_few(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    return images[1:]


def other_shape(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    return images[:, 1:]


def nothing(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    return None


def raises(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    raise RuntimeError("no\nweights")


def leaves(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    raise SystemExit(3)


def fickle(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    return np.random.default_rng().integers(0, 256, images.shape, np.uint8)


class Fickle:
    deterministic = False

    def __call__(self, images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
        return fickle(images, choice, styles)


class NoBatch(Fickle):
    batch_size = 0


class NoText(Fickle):
    version = 2


class NoJSON(Fickle):
    parameters = {"strength": np.float32(1)}  # noqa: RUF012


class NotMade:
    def __init__(self) -> None:
        raise FileNotFoundError("weights.pth")


def picky(images: Pixels, choice: list[int], styles: list[Pixels]) -> Any:
    """Fail on pictures that are dark on the whole."""
    if (images.mean((1, 2, 3)) < 10).any():
        raise ValueError("too dark")
    return 255 - images


not_callable = 3
