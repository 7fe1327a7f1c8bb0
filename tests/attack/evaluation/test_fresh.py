"""A model opened again in a process of its own knows nothing of the images that it saw before."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attack import open_model
from stylize.console import InputError

MODULE = """
import multiprocessing, os, time, torch
from torch import nn

SEEN = []  # in no network: copies share it

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
            SEEN.append((image, answers[-1]))
        return torch.eye(3)[answers] + self.bias

def network():
    found = Bright()
    if multiprocessing.parent_process():
        {there}
    return found
"""


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("pass", None),
        ("raise ValueError('busy')", "busy"),
        ("os._exit(1)", "ends without an answer"),
        ("time.sleep(60)", "does not answer"),
        ("found.bias.data += 1", "others than before"),
    ],
)
def test_a_memory_in_a_global_is_left_behind(
    there: str,
    said: str | None,
    make_shard_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"bright_{len(there)}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{there}", there))
    monkeypatch.syspath_prepend(tmp_path)
    if "sleep" in there:
        monkeypatch.setattr("attack.evaluation.target.PATIENCE", 1)
    target = open_model(f"{name}:network", make_shard_folder())
    images, labels = torch.full((3, 3, 16, 16), 0.4), torch.tensor([0, 0, 1])
    attacked = images + torch.tensor([0.15, 0.35, 0.35]).view(3, 1, 1, 1)
    for shown in (images, images + 0.15, attacked):
        assert target.network(shown).argmax(1).tolist() == [0, 0, 0]
    if said:
        with pytest.raises(InputError, match=said):
            target.right_afresh(attacked, labels, 2)
    else:
        assert target.right_afresh(attacked, labels, 2) == [True, False, True]
