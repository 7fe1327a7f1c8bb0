import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylize.errors import InputError
from stylize.networks.state_dicts import read_state_dict, take_convolutions

PATH = Path("weights.pth")


class Hostile:
    """Unpickling it makes the folder `executed`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def state(**changes: object) -> dict[str, object]:
    return {"2.weight": torch.full((4, 3, 3, 3), 0.5), "2.bias": torch.arange(4.0)} | changes


def take(tensors: dict[str, object]) -> list[tuple[Tensor, Tensor]]:
    return take_convolutions(tensors, ["2"], [(3, 4)], PATH)


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "legacy"])
def test_whole_files_are_read_and_cut_ones_are_refused(tmp_path: Path, modern: bool) -> None:
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save(OrderedDict(state()), whole, _use_new_zipfile_serialization=modern)
    read = read_state_dict(whole)
    assert list(read) == ["2.weight", "2.bias"]
    assert torch.equal(read["2.bias"], torch.arange(4.0))
    data = whole.read_bytes()
    for length in [*range(0, len(data), 61), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.pth (is not|cannot be read)"):
            read_state_dict(cut)


def test_files_that_are_no_state_dicts_are_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"2.weight": Hostile()}, "hostile.pth")
    torch.save({"2.weight": Hostile()}, "legacy.pth", _use_new_zipfile_serialization=False)
    Path("pickle.pth").write_bytes(pickle.dumps(Hostile()))
    Path("page.pth").write_bytes(b"<html>not found</html>")
    torch.save([torch.ones(1)], "list.pth")
    for name in ("hostile", "legacy", "pickle", "page"):
        with pytest.raises(InputError, match=f"{name}.pth is not a PyTorch file of plain tensors"):
            read_state_dict(Path(f"{name}.pth"))
    with pytest.raises(InputError, match=r"list\.pth holds no state dict"):
        read_state_dict(Path("list.pth"))
    for name in ("absent.pth", "."):
        with pytest.raises(InputError, match="cannot be opened"):
            read_state_dict(Path(name))
    assert not Path("executed").exists()


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
