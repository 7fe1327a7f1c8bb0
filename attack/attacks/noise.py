"""Random noise: what no attack may be weaker than."""

import torch
from torch import Tensor

from attack.attacks.attempt import Norm
from attack.attacks.balls import check_norm, random_point
from attack.attacks.victim import check_sizes


def uniform_noise(images: Tensor, *, epsilon: float, norm: Norm, seed: int) -> Tensor:
    """Return images (N, C, H, W) with noise drawn uniformly from the ball of radius epsilon, clipped to [0, 1].

    Raises `InputError` for an argument out of range.
    """
    check_norm(norm)
    check_sizes(epsilon=epsilon)
    return random_point(images, epsilon, norm, torch.Generator().manual_seed(seed))
