"""Attacks, losses and surrogates of the user's own: the documented example, what counts, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack import AttackConfig, attack_model, pgd
from attack.attacks import Attacked, Averaged, attack_loss
from attack.attacks.own import WithGradientOf, own_attack, own_loss
from stylize.console import InputError
from tests.attack.attacks.models import conv_model, linear_model, pictures, predicted
from tests.attack.planted.networks import undefended, write_shards

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"
HERE = __name__
QUICK = AttackConfig(images=24, epsilons=(8 / 255,), steps=4)


@pytest.fixture(scope="module")
def judged_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("own") / "shards")


def hidden() -> nn.Module:
    return nn.Sequential(Hides(), undefended()).eval()


class Hides(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.detach()


def flipped_signs(images: Tensor, labels: Tensor, model: nn.Module, epsilon: float) -> Tensor:
    """Step along the gradient of the network that is behind what hides it."""
    assert bool((model(images).argmax(1) == labels).all())
    pixels = images.clone().requires_grad_()
    with torch.enable_grad():
        torch.nn.functional.cross_entropy(undefended()(pixels), labels).backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None
    return (images + epsilon * pixels.grad.sign()).clamp(0, 1)


def too_far(images: Tensor, labels: Tensor, model: nn.Module) -> Tensor:
    return torch.cat(
        [(images[:1] + 0.9).clamp(0, 1), images[1:2] * torch.nan, images[2:3] - 2, (images[3:] + 0.001).clamp(0, 1)]
    )


def one_image(images: Tensor, labels: Tensor, model: nn.Module) -> Tensor:
    return images[:1]


def nothing(images: Tensor, labels: Tensor, model: nn.Module) -> None:
    return None


def fails(images: Tensor, labels: Tensor, model: nn.Module | None = None) -> Tensor:
    raise KeyError("why")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    return attack_loss("margin", logits, labels)


def mean_margin(logits: Tensor, labels: Tensor) -> Tensor:
    return margin(logits, labels).mean()


def verdict(result: dict[str, Any]) -> tuple[str, str]:
    (found,) = result["verdicts"]
    return found["word"], " ".join(found["reasons"])


def test_the_documented_example_breaks_a_jpeg_defence(
    judged_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(# defence\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "defence.py").write_text(code)
    monkeypatch.setattr("train.load_model", lambda path: (undefended(), None))
    monkeypatch.syspath_prepend(tmp_path)
    word, reasons = verdict(attack_model("defence:defended", judged_shards, tmp_path / "a.json", QUICK))
    assert word == "masking suspected"
    assert "Gradient reaches the pixels" in reasons
    assert "--surrogate" in reasons
    found = replace(QUICK, surrogate="defence:network")
    assert verdict(attack_model("defence:defended", judged_shards, tmp_path / "b.json", found))[0] == "not robust"


def test_what_an_attack_of_ones_own_breaks_counts(judged_shards: Path, tmp_path: Path) -> None:
    config = replace(QUICK, attack=(f"{HERE}:flipped_signs",), loss=(f"{HERE}:margin",))
    result = attack_model(hidden(), judged_shards, tmp_path / "r.json", config)
    assert verdict(result)[0] == "not robust"
    attacks = {attack["name"]: attack for attack in result["attacks"]}
    assert sum(attacks[f"pgd-{HERE}:margin"]["robust"]) > 20  # it has no gradient to follow
    assert sum(attacks[f"{HERE}:flipped_signs"]["robust"]) < 4


def test_images_that_were_moved_too_far_count_as_not_attacked() -> None:
    images = pictures(6, low=0.2, high=0.8)
    labels = predicted(linear_model(), images)
    attacked = own_attack(f"{HERE}:too_far", epsilon=0.01)(linear_model(), images, labels)
    assert attacked.outside == 3
    torch.testing.assert_close(attacked.images, torch.cat([images[:3], images[3:] + 0.001]))


def test_moved_too_far_is_said(judged_shards: Path, tmp_path: Path) -> None:
    config = replace(QUICK, attack=(f"{HERE}:too_far",), images=12)
    result = attack_model(hidden(), judged_shards, tmp_path / "r.json", config)
    (check,) = (check for check in result["checks"] if check["name"].startswith("attacks of one's own"))
    assert (check["passed"], check["failure"], check["numbers"]["images"]) == (False, "note", 3)


def test_a_loss_of_ones_own_is_the_loss_that_pgd_climbs() -> None:
    images = pictures(8)
    labels = predicted(conv_model(), images)
    ours = pgd(conv_model(), images, labels, epsilon=0.02, steps=5, loss=own_loss(f"{HERE}:margin"))
    named = pgd(conv_model(), images, labels, epsilon=0.02, steps=5, loss="margin")
    assert torch.equal(ours.images, named.images)


def run_attack(name: str) -> Attacked:
    images = pictures(3)
    return own_attack(f"{HERE}:{name}", epsilon=0.01)(linear_model(), images, predicted(linear_model(), images))


def run_loss(name: str) -> Attacked:
    images = pictures(3)
    labels = predicted(linear_model(), images)
    return pgd(linear_model(), images, labels, epsilon=0.1, loss=own_loss(f"{HERE}:{name}"))


def run_surrogate(name: str) -> Attacked:
    images = pictures(3)
    model = WithGradientOf(linear_model(5), linear_model(int(name))).eval()
    return pgd(model, images, predicted(model, images), epsilon=0.1)


def test_a_surrogate_does_not_round_the_logits() -> None:
    """Logits that differ in the fourth digit, beside a surrogate's of thousands."""
    close, large = nn.Linear(12, 2), nn.Linear(12, 2)
    for layer, bias in ((close, [0.3, 0.30001]), (large, [3000.0, -3000.0])):
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    images = torch.rand(2, 12, requires_grad=True)
    assert torch.equal(WithGradientOf(close, large)(images), close(images))


@pytest.mark.parametrize(
    ("run", "name", "message"),
    [
        (run_attack, "one_image", r"one_image returned a tensor of shape \(1, 3, 8, 8\)"),
        (run_attack, "nothing", "nothing returned NoneType"),
        (run_attack, "fails", "fails fails .*KeyError.*why"),
        (run_attack, "absent", "no function 'absent'"),
        (run_loss, "mean_margin", r"mean_margin returned a tensor of shape \(\)"),
        (run_loss, "fails", "Loss .*KeyError"),
        (run_loss, "absent", "no function 'absent'"),
        (run_surrogate, "3", r"\(3, 3\).*\(3, 5\)"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(run: Any, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attack": ("own.py",)}, "--attack is 'own.py'"),
        ({"loss": ("ce",)}, "--loss is 'ce'"),
        ({"surrogate": "model.safetensors"}, "--surrogate is 'model.safetensors'"),
        ({"suite": "paper", "attack": ("a:b",)}, "--suite paper"),
        ({"eot": 0}, "--eot is 0"),
    ],
)
def test_options_that_name_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AttackConfig(**given)


def test_the_mean_over_draws_is_that_of_logits_and_gradients() -> None:
    class Alternates(nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            logits: Tensor = linear_model(seed=self.calls % 2)(images)
            return logits

    images = pictures(2).requires_grad_()
    logits = Averaged(Alternates(), 4)(images)
    both = (linear_model(seed=0)(images) + linear_model(seed=1)(images)) / 2
    torch.testing.assert_close(logits, both)
    (gradient,), (expected,) = (torch.autograd.grad(each[:, 0].sum(), images) for each in (logits, both))
    torch.testing.assert_close(gradient, expected)
    found = pgd(Averaged(Alternates(), 4).eval(), images.detach(), logits.argmax(1), epsilon=0.001, steps=3)
    assert found.backwards == 4 * 2 * 3
