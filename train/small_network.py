"""The network `small`, for images of about 32 px and few minutes: airbench's ideas (Jordan 2024) in plain PyTorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (32, 128, 128)
_LOGIT_SCALE = 1 / 9  # keeps the first logits near 0, as the head has no weight decay of its own
_BATCH_NORM_MOMENTUM = 0.4  # statistics of the last few batches: training takes a few hundred

# Standard deviations of 2 × 2 patches of photographs along the 12 directions of `whitening`: rows are grey, red − blue
# and green − magenta, columns the mean of a patch, its horizontal, vertical and diagonal edge (measured on CIFAR-10).
_STD = torch.tensor(
    [[0.7986, 0.1472, 0.1594, 0.0588], [0.2224, 0.0155, 0.0190, 0.0035], [0.1008, 0.0096, 0.0112, 0.0027]]
)
_NOISE = 5e-4  # added to variances, as in airbench: what hardly varies is not blown up


class SmallNetwork(nn.Module):
    """A classifier of small images: pixels (B, 3, H, W) in [0, 1] to logits (B, classes); H and W at least 26.

    A fixed whitening convolution, three groups of two 3 × 3 convolutions, a maximum over positions and a linear head.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("filters", whitening())
        channels = 2 * len(_STD) * 4
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = nn.Sequential()
        for width in _WIDTHS:
            self.groups.append(_group(channels, width))
            channels = width
        self.head = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        filters = self.get_buffer("filters")
        edges = F.conv2d(images - 0.5, torch.cat([filters, -filters]), self.bias)
        features = self.groups(F.gelu(edges)).amax((2, 3))
        logits: Tensor = self.head(features) * _LOGIT_SCALE
        return logits


def whitening() -> Tensor:
    """Return filters (12, 3, 2, 2) whose answers to photographs are nearly uncorrelated, and of variance 1 or less.

    For natural images the eigenvectors of small patches are colour axes times edges, whatever the data set; airbench
    computes them from the training images.
    """
    edges = torch.tensor([[[1.0, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [-1, 2, -1]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    scales = (_STD.square() + _NOISE).rsqrt()
    return torch.einsum("ab,ac,bhw->abchw", scales, colours, edges).flatten(0, 1)


def _group(inputs: int, width: int) -> nn.Sequential:
    """Two 3 × 3 convolutions, the first with 2 × 2 pooling."""
    return nn.Sequential(
        _convolution(inputs, width), nn.MaxPool2d(2), _norm(width), nn.GELU(),
        _convolution(width, width), _norm(width), nn.GELU(),
    )  # fmt: skip


def _convolution(inputs: int, width: int) -> nn.Conv2d:
    """Return a convolution that begins by passing its input on, as far as it has room for it."""
    layer = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: min(inputs, width)])
    return layer


def _norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=_BATCH_NORM_MOMENTUM)
    norm.weight.requires_grad_(False)  # the scale is the next layer's to learn
    return norm
