"""Muon (Jordan 2024), for the decoder's weights as matrices."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic iteration
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix (M, N) with the same singular vectors and all singular values near 1 (Newton-Schulz)."""
    first, third, fifth = COEFFICIENTS
    wide = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return wide.T if matrix.size(0) > matrix.size(1) else wide


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose updates are orthogonalised in `dtype`; parameters are matrices.

    `torch.optim.Muon` makes the same updates, but in bfloat16 everywhere: where a CPU has no such instructions,
    one step takes minutes.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float | Tensor, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix by one update; tall ones by more, as in Jordan's original."""
        for group in self.param_groups:
            for matrix in group["params"]:
                gradient = cast("Tensor", matrix.grad)
                if matrix not in self.state:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = self.state[matrix]["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
                update = orthogonalise(gradient.lerp(momentum, MOMENTUM).to(self.dtype))
                rate = group["lr"] * max(1, matrix.size(0) / matrix.size(1)) ** 0.5
                matrix.sub_(update.to(matrix.dtype).mul_(rate))
