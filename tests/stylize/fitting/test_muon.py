import numpy as np
import pytest
import torch
from torch import nn

from stylize.fitting.optimise import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_singular_vectors_stay_and_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    rank, noise = min(shape), np.random.default_rng(0)
    left, right = (np.linalg.qr(noise.normal(size=(side, rank)))[0] for side in shape)
    matrix = left * np.linspace(0.1, 3, rank) @ right.T
    found = left.T @ orthogonalise(torch.from_numpy(matrix)).numpy() @ right
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-9
    assert np.diag(found).min() > 0.6
    assert np.diag(found).max() < 1.3


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_updates_are_those_of_torch_in_another_type(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimisers = (Muon([mine], 0.01, torch.float32), torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0))
    for seed in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(10 + seed))
        for matrix, optimiser in zip((mine, theirs), optimisers, strict=True):
            matrix.grad = gradient.clone()
            optimiser.step()
    moved, wanted = (matrix.detach() - start for matrix in (mine, theirs))
    assert (moved - wanted).norm() < 0.02 * wanted.norm()  # theirs multiplies in bfloat16
