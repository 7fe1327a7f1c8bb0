"""Adversarially trained networks in honest wrappings: nothing is hidden, and no check may say so."""

import copy
import threading
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.attack.planted.gradients import levels
from tests.attack.planted.networks import robust
from tests.attack.planted.outputs import LowPrecision
from tests.attack.planted.wrapping import Builder, after, before, straight_through


class Mean(nn.Module):
    """The mean answer of several networks, or of one network to several views of the image."""

    def __init__(self, members: list[nn.Module], views: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.members, self.views = nn.ModuleList(members), views

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        return torch.stack([member(view(images)) for member in self.members for view in self.views]).mean(0)


class Counting(nn.Module):
    """Counts its calls, and answers as if it did not."""

    images: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        self.calls += 1
        self.images += len(images)
        logits: Tensor = self.network(images)
        return logits


class CachesWeights(nn.Module):
    """Computes a constant at its first call, and keeps it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        if self.mean is None:
            self.mean = torch.full_like(images[:1], 0.5)
        logits: Tensor = self.network((images - self.mean.to(images)) * 0.25 / 0.25 + self.mean.to(images))
        return logits


class Double(nn.Module):
    """Computes in float64 and answers in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = self.network(images.double())
        return logits.to(images.dtype)


class Checkpointed(nn.Module):
    """Computes its features again on the way back, to save memory."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        logits: Tensor = checkpoint(self.network, images, use_reentrant=False)
        return logits


class CannotBeCopied(nn.Module):
    """Holds a lock, as models that serve requests do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.lock = network, threading.Lock()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        with self.lock:
            logits: Tensor = self.network(images)
        return logits


class SmallBatches(nn.Module):
    """Takes batches of 64 images at most."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        if len(images) > 64:
            raise ValueError(f"{len(images)} images are more than 64.")
        logits: Tensor = self.network(images)
        return logits


class SmoothedByFixedNoise(nn.Module):
    """Averages over noise that is the same for all images."""

    noise: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("noise", 0.02 * torch.randn(6, 1, 3, 16, 16))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        return torch.stack([self.network(images + noise) for noise in self.noise]).mean(0)


def convolutional_head(network: nn.Module) -> nn.Module:
    """Write the linear head as a convolution."""
    *body, _, head = network.children()
    assert isinstance(head, nn.Linear)
    convolution = nn.Conv2d(head.in_features // 16, head.out_features, 4).requires_grad_(False)
    convolution.weight.copy_(head.weight.view_as(convolution.weight))
    assert convolution.bias is not None
    convolution.bias.copy_(head.bias)
    return nn.Sequential(*body, convolution, nn.Flatten())


def with_dropout(network: nn.Module) -> nn.Module:
    """Put dropout before the head, which eval mode switches off."""
    return nn.Sequential(*list(network.children())[:-1], nn.Dropout(0.5), list(network.children())[-1])


def smooth(network: nn.Module) -> nn.Module:
    """Replace ReLU by a softplus that is nearly the same."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU):
            network.set_submodule(name, nn.Softplus(beta=20))
    return network


def inference_parameters(network: nn.Module) -> nn.Module:
    """Make the parameters inference tensors, as loading under `torch.inference_mode` does."""
    with torch.inference_mode():
        for module in network.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
    return network


def scripted(network: nn.Module) -> nn.Module:
    """Compile to TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is old, and models of it are about
        traced: nn.Module = torch.jit.trace(network, torch.rand(2, 3, 16, 16))  # type: ignore[no-untyped-call]
    return traced


def enlarged(images: Tensor) -> Tensor:
    """Resize to twice the size, and back."""
    return F.avg_pool2d(F.interpolate(images, scale_factor=2, mode="bilinear"), 2)


def normalised(images: Tensor) -> Tensor:
    """Normalise and undo it, as a network's first layer might."""
    return (images - 0.45) / 0.22 * 0.22 + 0.45


HONEST: dict[str, Builder] = {
    "plain": lambda network: network,
    "BatchNorm": lambda _: copy.deepcopy(robust(norms=True)),
    "softplus activations": smooth,
    "convolutional head": convolutional_head,
    "float64 logits": after(Tensor.double),
    "takes 64 images at most": SmallBatches,
    "cannot be copied": CannotBeCopied,
    "smoothed by fixed noise": SmoothedByFixedNoise,
    "dropout in eval mode": with_dropout,
    "normalised inside": before(normalised),
    "pixels clamped": before(lambda x: x.clamp(0, 1)),
    "8-bit rounding, straight-through gradient": straight_through(levels(256)),
    "resized bilinearly": before(enlarged),
    "blurred": before(lambda x: F.avg_pool2d(x, 3, 1, 1)),
    "softplus outputs": after(F.softplus),
    "logits from 0": after(lambda z: z - z.amin(1, keepdim=True)),
    "logits plus 100": after(lambda z: z + 100),
    "exponentiated scores": after(torch.exp),
    "log-probabilities": after(lambda z: z.log_softmax(1)),
    "logits times 5": after(lambda z: 5 * z),
    "logits times 30": after(lambda z: 30 * z),
    "logits times 300": after(lambda z: 300 * z),
    "logits squashed": after(lambda z: 10 * (z / 10).tanh()),
    "squares above 0": after(lambda z: (z - z.amin(1, keepdim=True) + 1) ** 2),
    "ReLU outputs": after(lambda z: (z + 3).relu()),
    "logits over 5": after(lambda z: z / 5),
    "logits clipped far out": after(lambda z: z.clamp(-50, 50)),
    "wrapped as DataParallel": nn.DataParallel,
    "channels last": lambda network: network.to(memory_format=torch.channels_last),
    "mean of two networks": lambda network: Mean([network, copy.deepcopy(robust(1))], [torch.clone]),
    "mean of two views": lambda network: Mean([network], [torch.clone, lambda x: 0.5 + 0.95 * (x - 0.5)]),
    "bfloat16 autocast": lambda network: LowPrecision(network, torch.bfloat16, autocast=True),
    "float64 inside": Double,
    "inference parameters": inference_parameters,
    "TorchScript": scripted,
    "recomputed features": Checkpointed,
    "counter of calls": Counting,
    "constant kept from the first call": CachesWeights,
}
