"""Undefended networks that answer at random, or by noise that is fixed for an image."""

import copy
import random
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attack.planted.wrapping import Builder, Wrapped, after, before, gradient, per_image


def input_noise(images: Tensor) -> Tensor:
    """Add Gaussian noise (Cohen et al. 2019, with one draw)."""
    return images + 0.05 * torch.randn_like(images)


def resized_and_padded(images: Tensor) -> Tensor:
    """Resize images by up to two pixels, pad them at random, and bring them to their size again (Xie et al. 2018)."""
    size = images.shape[3]
    larger = size + int(torch.randint(0, 3, ()))
    left, top = (int(torch.randint(0, size + 3 - larger, ())) for _ in range(2))
    resized = F.interpolate(images, larger, mode="bilinear")
    padded = F.pad(resized, (left, size + 2 - larger - left, top, size + 2 - larger - top), mode="replicate")
    return padded[..., 1 : size + 1, 1 : size + 1]


def shifted(images: Tensor) -> Tensor:
    """Move images by at most one pixel, mostly not at all."""
    return images.roll(int(torch.rand(()) < 0.2), 3)


def patches_shuffled(images: Tensor) -> Tensor:
    """Exchange two of the sixteen patches of 4 × 4 pixels."""
    patches = F.unfold(images, 4, stride=4)
    order = torch.arange(patches.shape[2])
    first, second = torch.randperm(len(order))[:2].tolist()
    order[first], order[second] = second, first
    return F.fold(patches[..., order], images.shape[2], 4, stride=4)


def masked(images: Tensor) -> Tensor:
    """Replace a tenth of the pixels by grey."""
    return torch.where(torch.rand_like(images[:, :1]) < 0.1, 0.5, images)


def dithered(images: Tensor) -> Tensor:
    """Round to 16 levels after noise of one level, without a gradient."""
    return ((images * 15 + torch.rand_like(images) - 0.5).round() / 15).detach()


def logit_noise(logits: Tensor) -> Tensor:
    """Add noise to the logits, of a third of their spread."""
    return logits + 0.3 * logits.detach().std(correction=0) * torch.randn_like(logits)


def fixed_noise(images: Tensor) -> Tensor:
    """Add noise that is always the same for an image, and another for nearly the same image."""
    keys = ((images.detach() * 1e4).round().long() * torch.arange(1, images[0].numel() + 1).view(images.shape[1:])).sum(
        (1, 2, 3)
    )
    phases = torch.arange(images[0].numel()).view(images.shape[1:]) * 12.9898 + per_image(keys % 1009)
    return images + 0.08 * (torch.sin(phases.to(images)) * 43758.5453).frac()


def seeded_elsewhere(images: Tensor) -> Tensor:
    """Add noise drawn by Python's generator, which no seed of PyTorch's reaches."""
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    return images + 0.05 * torch.randn(images.shape, generator=generator).to(images)


def seeded_by_clock(images: Tensor) -> Tensor:
    """Add noise that depends on the time."""
    generator = torch.Generator().manual_seed(time.perf_counter_ns())
    return images + 0.05 * torch.randn(images.shape, generator=generator).to(images)


def noisy_when_watched(images: Tensor) -> Tensor:
    """Add noise where gradients are asked for, and only there."""
    return input_noise(images) if images.requires_grad else images


class AtEveryLayer(nn.Module):
    """A network of layers with a random function after each ReLU."""

    def __init__(self, network: nn.Module, *, dropped: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        self.layers, self.dropped, self.noise = nn.ModuleList(network.children()), dropped, noise

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        features = images
        for layer in self.layers:
            features = layer(features)
            if isinstance(layer, nn.ReLU):
                features = F.dropout(features, self.dropped, training=True)
                features = features + self.noise * features.detach().std(correction=0) * torch.randn_like(features)
        return features


class PrunedByChance(nn.Module):
    """Keeps activations drawn by their size (stochastic activation pruning, Dhillon et al. 2018)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(network.children())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        features = images
        for layer in self.layers:
            features = layer(features)
            if isinstance(layer, nn.ReLU):
                shares = features.detach() / features.detach().sum((1, 2, 3), keepdim=True).clamp_min(1e-9)
                kept = 1 - (1 - shares).pow(features[0].numel())
                features = features * (torch.rand_like(kept) < kept) / kept.clamp_min(1e-6)
        return features


class RandomEnsemble(nn.Module):
    """Asks one of its members, drawn anew for each call."""

    def __init__(self, network: nn.Module, *, noise: float) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(network) for _ in range(3))
        with torch.no_grad():
            for parameter in self.members.parameters():
                parameter.add_(noise * parameter.std(correction=0) * torch.randn_like(parameter))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.members[int(torch.randint(len(self.members), ()))](images)
        return logits


class RandomHead(nn.Module):
    """Takes its linear head on some calls, and the same product without the module on others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        *body, head = network.children()
        assert isinstance(head, nn.Linear)
        self.body, self.head = nn.Sequential(*body), head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        features: Tensor = self.body(images)
        if torch.rand(()) < 0.5:
            head: Tensor = self.head(features)
            return head
        return features @ (self.head.weight + 0.02 * torch.randn_like(self.head.weight)).T + self.head.bias


def noise_and_no_gradient(network: nn.Module) -> nn.Module:
    """Add noise to the input and hide the gradient behind it."""
    return Wrapped(gradient(lambda grad, _: torch.zeros_like(grad))(network), input_noise)


class VotesUnderNoise(nn.Module):
    """Counts the answers to seven noisy versions of an image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the counts (N, classes)."""
        answers = [self.network(images + 0.03 * torch.randn_like(images)).argmax(1) for _ in range(7)]
        return F.one_hot(torch.stack(answers), 5).sum(0).to(images)


RANDOM: dict[str, Builder] = {
    "noise on the input": before(input_noise),
    "noise on the input, no gradient": noise_and_no_gradient,
    "noise on the logits": after(logit_noise),
    "votes under noise": VotesUnderNoise,
    "noise at every layer": lambda network: AtEveryLayer(network, noise=0.3),
    "noise fixed for an image": before(fixed_noise),
    "noise from Python's generator": before(seeded_elsewhere),
    "noise by the clock": before(seeded_by_clock),
    "noise under gradients only": before(noisy_when_watched),
    "dropout that stays on": lambda network: AtEveryLayer(network, dropped=0.3),
    "stochastic activation pruning": PrunedByChance,
    "random resizing and padding": before(resized_and_padded),
    "random shifts": before(shifted),
    "random exchange of patches": before(patches_shuffled),
    "random masks": before(masked),
    "random dithering": before(dithered),
    "random ensemble": lambda network: RandomEnsemble(network, noise=0.1),
    "random use of the head": RandomHead,
}

# Of adversarially trained networks: nothing is hidden where attacks go by the mean over draws.
ROBUST_RANDOM: dict[str, Builder] = {
    "little noise on the input": before(lambda images: images + 0.02 * torch.randn_like(images)),
    "noise on the logits": after(logit_noise),
    "some dropout that stays on": lambda network: AtEveryLayer(network, dropped=0.1),
    "random resizing and padding": before(resized_and_padded),
    "random ensemble": lambda network: RandomEnsemble(network, noise=0.02),
}
