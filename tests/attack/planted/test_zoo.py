"""No planted weakness passes for robustness, and honest models raise no alarm."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attack import AttackConfig
from stylize.console import InputError
from tests.attack.planted.honest import HONEST
from tests.attack.planted.networks import TEST, TEST_SEED, draw_images, undefended
from tests.attack.planted.state import STATEFUL
from tests.attack.planted.zoo import BROKEN, build, judge

EPSILON = 8 / 255
KNOWN_ALARMS: set[str] = set()  # honest models that a check still suspects: one at most
FULL = AttackConfig(suite="full", images=TEST, epsilons=(EPSILON,), steps=20, step_size=5e-4, batch_size=TEST)


@cache
def images_attacked_without_defence() -> tuple[Tensor, Tensor]:
    """Return images attacked within 8/255 through the bare network by signed gradient steps on the margin."""
    images, labels = draw_images(TEST, TEST_SEED)
    current = images.clone()
    for _ in range(10):
        leaf = current.requires_grad_()
        logits = undefended()(leaf)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((others - logits.gather(1, labels[:, None])[:, 0]).sum(), leaf)
        moved = leaf.detach() + EPSILON / 4 * gradient.sign()
        current = moved.clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return current, labels


@pytest.mark.parametrize("name", BROKEN)
def test_the_truth_broken_models_fall_to_an_attack_on_what_they_hide(name: str) -> None:
    attacked, labels = images_attacked_without_defence()
    images, _ = draw_images(TEST, TEST_SEED)
    with torch.no_grad():
        clean = build(name, broken=True)(images).argmax(1) == labels
        left = build(name, broken=True)(attacked).argmax(1) == labels
    assert clean.float().mean() > 0.7
    assert left.float().mean() < 0.3  # an answer that is always the same is right in 0.2


@pytest.mark.parametrize("name", BROKEN)
def test_no_broken_model_is_missed(name: str, shards: Path, tmp_path: Path) -> None:
    try:
        cells = judge(build(name, broken=True), shards, tmp_path / "result.json")
    except InputError:  # a model that attacks cannot be made on is refused, with the reason
        return
    assert not any(cell.missed() for cell in cells.values()), cells


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_raise_no_alarm(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=False), shards, tmp_path / "result.json")
    assert any(cell.alarmed() for cell in cells.values()) == (name in KNOWN_ALARMS), cells


def test_one_alarm_at_most() -> None:
    assert len(KNOWN_ALARMS) <= 1
    assert len(BROKEN) >= 49
    assert len(HONEST) >= 19


@pytest.mark.slow
@pytest.mark.parametrize("name", STATEFUL)
def test_no_model_with_state_holds(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=True), shards, tmp_path / "result.json", FULL)
    assert "holds" not in {cell.word for cell in cells.values()}, cells


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "logits times 30", "8-bit rounding, straight-through gradient"])
def test_an_honest_model_holds(name: str, shards: Path, tmp_path: Path) -> None:
    cells = judge(build(name, broken=False), shards, tmp_path / "result.json", FULL)
    assert {cell.word for cell in cells.values()} == {"holds"}, cells
