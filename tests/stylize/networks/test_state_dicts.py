from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylize.console import InputError
from stylize.networks.weights import take_convolutions

PATH = Path("weights.pth")


def state(**changes: object) -> dict[str, object]:
    return {"2.weight": torch.full((4, 3, 3, 3), 0.5), "2.bias": torch.arange(4.0)} | changes


def take(tensors: dict[str, object]) -> list[tuple[Tensor, Tensor]]:
    return take_convolutions(tensors, ["2"], [(3, 4)], PATH)


def test_half_and_double_precision_become_single() -> None:
    for dtype in (torch.float16, torch.float64):
        ((weight, bias),) = take(state(**{"2.weight": torch.full((4, 3, 3, 3), 0.5, dtype=dtype)}))
        assert weight.dtype == bias.dtype == torch.float32
        assert torch.equal(weight, torch.full((4, 3, 3, 3), 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.bias": None}, r"weights\.pth has no tensor 2\.bias"),
        ({"2.weight": torch.ones(4, 4, 3, 3)}, r"has 2\.weight as \(4, 4, 3, 3\) of torch\.float32, not as"),
        ({"2.bias": torch.ones(5)}, r"has 2\.bias as \(5,\)"),
        ({"2.bias": torch.ones(4, dtype=torch.int64)}, r"has 2\.bias as \(4,\) of torch\.int64"),
        ({"2.bias": torch.ones(4).to_sparse()}, r"has 2\.bias as"),
        ({"2.bias": torch.ones(4, device="meta")}, r"has 2\.bias as"),
        ({"2.bias": torch.tensor([0, 0, 0, float("nan")])}, r"NaN or infinity in 2\.bias"),
        ({"2.weight": torch.full((4, 3, 3, 3), float("inf"))}, r"NaN or infinity in 2\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(state(**change))
