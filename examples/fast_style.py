"""A feed-forward style network (Johnson et al. 2016), one style a network, from a file of its weights.

FAST_STYLE=mosaic.pth stylize shards --stylizer examples.fast_style:FastStyle --data photos

The weights are named as in PyTorch's own example `fast_neural_style`.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stylize.files import file_sha256, read_weights


class FastStyle:
    """A stylizer of one style, whose weights are in the file that FAST_STYLE names."""

    name, version, batch_size, needs_styles = "fast-style", "1", 4, False

    def __init__(self) -> None:
        file = Path(os.environ["FAST_STYLE"])
        self.weights = read_weights(file)
        self.parameters = {"weights_sha256": file_sha256(file)}

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], choice: list[int], styles: object) -> NDArray[np.uint8]:
        """Return the images (N, H, W, 3) in the network's style."""
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # the network's pixels go to 255
        for number, stride in ((1, 1), (2, 2), (3, 2)):
            x = F.relu(self._norm(f"in{number}", self._conv(f"conv{number}", x, stride)))
        for block in (f"res{number}" for number in range(1, 6)):
            inner = F.relu(self._norm(f"{block}.in1", self._conv(f"{block}.conv1", x)))
            x = x + self._norm(f"{block}.in2", self._conv(f"{block}.conv2", inner))
        for number in (1, 2):
            x = self._conv(f"deconv{number}", F.interpolate(x, scale_factor=2, mode="nearest"))
            x = F.relu(self._norm(f"in{number + 3}", x))
        x = self._conv("deconv3", x)[..., : images.shape[1], : images.shape[2]]  # sides were multiples of 4
        return x.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()

    def _conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = (self.weights[f"{name}.conv2d.{kind}"] for kind in ("weight", "bias"))
        return F.conv2d(F.pad(x, [weight.shape[-1] // 2] * 4, "reflect"), weight, bias, stride)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weights[f"{name}.weight"], bias=self.weights[f"{name}.bias"])
