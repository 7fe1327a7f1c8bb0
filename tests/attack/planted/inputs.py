"""Undefended networks behind a function that cleans their input."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tests.attack.planted.networks import TRAIN, TRAIN_SEED, draw_images
from tests.attack.planted.wrapping import Builder, Wrapped, before, straight_through


def jpeg(images: Tensor) -> Tensor:
    """Save images as JPEG of quality 95 and read them again."""
    return torch.stack([_reread(image) for image in images.detach().float().cpu()]).to(images)


def _reread(image: Tensor) -> Tensor:
    buffer = io.BytesIO()
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255


def neighbours(images: Tensor) -> Tensor:
    """Return each pixel's 3 × 3 neighbourhood, (N, C, 9, H, W)."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3).view(count, channels, 9, height, width)


def median(images: Tensor) -> Tensor:
    """Move each pixel a third of the way to the median of its neighbourhood."""
    return 0.67 * images + 0.33 * neighbours(images).median(2).values


def bilateral(images: Tensor) -> Tensor:
    """Average each pixel with neighbours of nearly the same value."""
    around = neighbours(images)
    weights = torch.exp(-((around - images[:, :, None]) ** 2) / (2 * 0.02**2))
    return (weights * around).sum(2) / weights.sum(2)


def less_variation(images: Tensor) -> Tensor:
    """Take three steps down the total variation (Guo et al. 2018)."""
    for _ in range(3):
        across, down = images.diff(dim=3), images.diff(dim=2)
        across, down = across / (across**2 + 1e-3).sqrt(), down / (down**2 + 1e-3).sqrt()
        images = images + 2e-3 * (F.pad(across, (0, 1)) - F.pad(across, (1, 0)))
        images = images + 2e-3 * (F.pad(down, (0, 0, 0, 1)) - F.pad(down, (0, 0, 1, 0)))
    return images


class Projection(nn.Module):
    """Projects images on the principal components of the training images, as a linear autoencoder does."""

    mean: Tensor
    basis: Tensor

    def __init__(self, network: nn.Module, *, rank: int, cut: bool) -> None:
        super().__init__()
        images = draw_images(TRAIN, TRAIN_SEED, misleading=True)[0].flatten(1)
        self.register_buffer("mean", images.mean(0))
        self.register_buffer("basis", torch.linalg.svd(images - images.mean(0), full_matrices=False).Vh[:rank])
        self.network, self.cut = network, cut

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        flat = (images.detach() if self.cut else images).flatten(1)
        code = (flat - self.mean) @ self.basis.T
        if self.cut:
            code = (code * 20).round() / 20
        logits: Tensor = self.network((code @ self.basis + self.mean).view_as(images))
        return logits


class NearestCode(nn.Module):
    """Replaces each patch of 2 × 2 pixels by the nearest of a codebook, added to a part of the patch itself."""

    codes: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        patches = F.unfold(draw_images(100, TRAIN_SEED)[0], 2, stride=2).transpose(1, 2).flatten(0, 1)
        self.register_buffer("codes", patches[:: len(patches) // 500])
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        patches = F.unfold(images.detach(), 2, stride=2).transpose(1, 2)
        nearest = self.codes[torch.cdist(patches, self.codes.expand(len(patches), -1, -1)).argmin(2)]
        mixed = 0.7 * patches.mul(255).round().div(255) + 0.3 * nearest
        logits: Tensor = self.network(F.fold(mixed.transpose(1, 2), images.shape[2], 2, stride=2))
        return logits


class NearestNeighbour(nn.Module):
    """Answers as the nearest training image in the network's logits was labelled, or as the nearest ones vote."""

    known: Tensor
    answers: Tensor

    def __init__(self, network: nn.Module, *, soft: bool) -> None:
        super().__init__()
        images, labels = draw_images(TRAIN, TRAIN_SEED, misleading=True)
        self.register_buffer("known", network(images))
        self.register_buffer("answers", F.one_hot(labels).float())
        self.network, self.soft = network, soft

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        distances = torch.cdist(self.network(images), self.known)
        if self.soft:
            return (-20 * distances).softmax(1) @ self.answers.to(distances) * 10
        return 10 * self.answers[distances.argmin(1)].to(images)


class Purifier(nn.Module):
    """Takes three steps of its own up the network's energy before it answers, without a graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        pixels = images.detach()
        for _ in range(3):
            with torch.enable_grad():
                leaf = pixels.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self.network(leaf).logsumexp(1).sum(), leaf)
            pixels = pixels + gradient.sign() / 255
        logits: Tensor = self.network(pixels)
        return logits


def warp(images: Tensor) -> Tensor:
    """Send every pixel through a curve that is steep here and flat there."""
    return images + 0.999 / (2 * np.pi * 64) * torch.sin(2 * np.pi * 64 * images)


INPUTS: dict[str, Builder] = {
    "JPEG": before(jpeg),
    "JPEG, straight-through gradient": straight_through(jpeg),
    "median filter": before(median),
    "bilateral filter": before(bilateral),
    "total variation": before(less_variation),
    "total variation, detached": lambda network: Wrapped(network, lambda x: less_variation(x.detach())),
    "projection on components": lambda network: Projection(network, rank=500, cut=False),
    "projection on components, rounded code": lambda network: Projection(network, rank=500, cut=True),
    "nearest patches": NearestCode,
    "nearest neighbour": lambda network: NearestNeighbour(network, soft=False),
    "nearest neighbours, soft vote": lambda network: NearestNeighbour(network, soft=True),
    "purified by steps of its own": Purifier,
    "steep and flat curve": before(warp),
}
