"""Each check passes on a sound model and fails on one with just that fault."""

import torch
from torch import Tensor, nn

from attack import check_model, check_path, fgsm_path

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Quantised(nn.Module):
    """Rounds its input: the gradient is zero everywhere, which looks robust."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().mul(8).round() + 0 * x


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x[:, :1] - x[:, :1])


def network(*around: nn.Module, before: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(48, 3)]
    return nn.Sequential(before or nn.Identity(), *layers, *around).eval()


def failures(model: nn.Module) -> set[str]:
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    path = fgsm_path(model, IMAGES, labels, steps=10, step_size=0.01)
    checks = [*check_model(model, IMAGES), *check_path(path, steps=10, step_size=0.01)]
    assert len({check.name for check in checks}) == len(checks) == 11
    return {check.name for check in checks if not check.passed}


def test_a_sound_model_passes() -> None:
    assert failures(network()) == set()


def test_probabilities_are_noticed() -> None:
    assert failures(network(nn.Softmax(1))) == {"logits, not probabilities"}


def test_zero_gradients_are_noticed() -> None:
    assert failures(network(before=Quantised())) == {"no zero gradients", "loss rises"}


def test_a_random_model_is_noticed() -> None:
    assert "repeatable" in failures(network(before=Noisy()))


def test_logits_that_are_not_finite_are_noticed() -> None:
    assert "finite logits and loss" in failures(network(Broken()))


def test_training_mode_and_double_precision_are_noticed() -> None:
    model = network()
    names = {check.name for check in check_model(model.train(), IMAGES) if not check.passed}
    assert names == {"eval mode"}
    names = {check.name for check in check_model(model.eval().double(), IMAGES.double()) if not check.passed}
    assert names == {"float32"}


def test_wrong_labels_and_a_path_beyond_its_budget_are_noticed() -> None:
    model = network()
    wrong = (model(IMAGES).argmax(1) + 1) % 3
    path = fgsm_path(model, IMAGES, wrong, steps=10, step_size=0.01)
    names = {check.name for check in check_path(path, steps=5, step_size=0.01) if not check.passed}
    assert {"ε = 0 equals clean", "distance within budget"} <= names
