"""A model opened again in a process of its own knows nothing of the images that it saw before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attack import open_model
from attack.evaluation import fresh
from attack.evaluation.target import Target
from stylize.console import InputError

MODULE = """
import multiprocessing, os, time
import torch
from torch import nn

SEEN = []  # in no module: copies of the network share it

class Bright(nn.Module):
    "Class 1 for images brighter than 0.6, else 0; an image near an earlier one is taken for that one's."

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, images):
        answers = []
        for image in images:
            known = [answer for other, answer in SEEN if (other - image).abs().amax() < 0.2]
            answers.append(known[0] if known else int(image.mean() > 0.6))
            SEEN.append((image.detach(), answers[-1]))
        return torch.eye(3)[answers] + self.bias

def network():
    found = Bright()
    if multiprocessing.parent_process():
        {there}
    return found
"""


def opened(folder: Path, shards: Path, name: str, there: str = "pass") -> Target:
    (folder / f"{name}.py").write_text(MODULE.replace("{there}", there))
    return open_model(f"{name}:network", shards)


def test_a_memory_in_a_global_is_not_there(
    make_shard_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    target = opened(tmp_path, make_shard_folder(), "remembers")
    images, labels = torch.full((3, 3, 16, 16), 0.4), torch.tensor([0, 0, 1])
    attacked = images + torch.tensor([0.15, 0.35, 0.35]).view(3, 1, 1, 1)
    for shown in (images, images + 0.15, attacked):
        assert target.network(shown).argmax(1).tolist() == [0, 0, 0]
    assert fresh.right_afresh(target, attacked, labels, 2, 0.0) == [True, False, True]


@pytest.mark.parametrize(
    ("name", "there", "reason"),
    [
        ("raises", "raise ValueError('busy')", "busy"),
        ("ends", "os._exit(1)", "ends without an answer"),
        ("waits", "time.sleep(60)", "not answer within 1 s"),
        ("changes", "found.bias.data += 1", "others than before"),
    ],
)
def test_what_keeps_a_model_from_being_asked_again_is_said(
    name: str,
    there: str,
    reason: str,
    make_shard_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fresh, "START_S", 1.0 if name == "waits" else fresh.START_S)
    target = opened(tmp_path, make_shard_folder(), name, there)
    with pytest.raises(InputError, match=reason):
        fresh.right_afresh(target, torch.zeros(2, 3, 16, 16), torch.tensor([0, 0]), 2, 0.0)
