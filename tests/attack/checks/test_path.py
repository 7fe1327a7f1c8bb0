"""Each check of the path passes on a sound model and fails on one with just that fault."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack.attacks.paper_path import AttackPath, fgsm_path
from attack.checks.attacks import check_path

STEPS, STEP = 10, 0.004
Images = tuple[Tensor, Tensor]


def failures(path: AttackPath) -> set[str]:
    checks = list(check_path(path, steps=STEPS, step_size=STEP))
    assert len({check.name for check in checks}) == len(checks) == 7
    assert all(check.meaning and check.numbers for check in checks)
    return {check.name for check in checks if not check.passed}


@pytest.fixture(scope="module")
def path(plain_model: nn.Module, test_images: Images) -> AttackPath:
    images, labels = test_images
    right = plain_model(images).argmax(1) == labels
    return fgsm_path(plain_model, images[right], labels[right], steps=STEPS, step_size=STEP)


def first(values: Tensor, fill: float) -> Tensor:
    return torch.cat([torch.full_like(values[:1], fill), values[1:]])


def recover(correct: Tensor) -> Tensor:
    """Break four images in the middle, mend all at the end."""
    correct = torch.ones_like(correct)
    correct[:4, 5] = False
    return correct


DEFECTS: dict[str, Callable[[AttackPath], AttackPath]] = {
    "finite on the path": lambda path: replace(path, loss=path.loss.index_fill(1, torch.tensor([5]), torch.inf)),
    "ε = 0 equals clean": lambda path: replace(path, correct=first(path.correct, False)),
    "no zero gradients on the path": lambda path: replace(path, zero_gradients=first(path.zero_gradients, 3 * 12 * 12)),
    "loss rises": lambda path: replace(path, loss=path.loss.flip(1)),
    "a longer path never helps": lambda path: replace(path, correct=recover(path.correct)),
    "pixels in [0, 1]": lambda path: replace(path, images=first(path.images, 1.01)),
    "distance within budget": lambda path: replace(path, linf=first(path.linf, 1.01 * STEPS * STEP)),
}


def test_a_sound_path_passes(path: AttackPath) -> None:
    assert failures(path) == set()


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_caught_by_its_check(path: AttackPath, name: str) -> None:
    assert failures(DEFECTS[name](path)) == {name}


def test_a_quantised_input_is_noticed_on_the_path(test_images: Images) -> None:
    class Quantised(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images * 8).round().flatten(1)[:, :5]

    path = fgsm_path(Quantised().eval(), *test_images, steps=STEPS, step_size=STEP)
    assert failures(path) - {"ε = 0 equals clean"} == {"no zero gradients on the path", "loss rises"}
