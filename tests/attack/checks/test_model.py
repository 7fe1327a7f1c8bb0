"""Planted defects: each is caught, and as far as possible by the one check that looks for it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack.checks import Check
from attack.checks.model import check_model
from tests.attack.conftest import Remembers

Images = tuple[Tensor, Tensor]


class Around(nn.Module):
    """A model between a function of its pixels and a function of its logits."""

    def __init__(self, model: nn.Module, before: Callable[[Tensor], Tensor] | None = None, after: Any = None) -> None:
        super().__init__()
        self.training = False
        self.model, self.before, self.after = model, before or torch.clone, after or torch.clone

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.after(self.model(self.before(images)))
        return logits


def before(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    return lambda model: Around(model, function)


def after(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    return lambda model: Around(model, None, function)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 255).round() / 255

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class NoiseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.randn_like(gradients[0]) * gradients[0].std()


class FlippedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def some(images: Tensor) -> Tensor:
    """Choose a third of images, and of images near them (N, 1, 1, 1)."""
    return images.detach().mean((1, 2, 3), keepdim=True) * 1000 % 3 < 1


class FlippedOnSome(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.where(some(ctx.saved_tensors[0]), -gradients[0], gradients[0])


class Autocast(Around):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.model(images)
        return logits.to(images.dtype)


class Purifier(Around):
    """Takes a step of its own on the pixels before it classifies them, differentiably."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            pixels = images if images.requires_grad else images.clone().requires_grad_()
            energy = self.model(pixels).logsumexp(1).sum()
            (gradient,) = torch.autograd.grad(energy, pixels, create_graph=images.requires_grad)
        logits: Tensor = self.model(images + 1e-3 * gradient)
        return logits


class Shared(Remembers):
    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        return self


class Watchful(Around):
    """Answers otherwise when it is asked for gradients."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits + 5 * torch.arange(logits.shape[1]) if images.requires_grad else logits


def hashed(images: Tensor) -> Tensor:
    """Return noise (N,) that is fixed for an image, another one for nearly the same image."""
    cells = (images.detach().double() * 20 + 0.25).floor().long().flatten(1)
    keys = (cells * torch.arange(1, cells.shape[1] + 1) * 7919).sum(1)
    return (keys * 2654435761 % 1009).to(images.dtype) / 1009 - 0.5


class DeterministicNoise(Around):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits + 60 * hashed(images)[:, None] * torch.arange(logits.shape[1])


def shatter(images: Tensor) -> Tensor:
    """Add a faint ripple with a gradient far above the model's own."""
    return images + 2e-4 * torch.sin(1e5 * images)


def batch_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return model


def training_batchnorm(model: nn.Module) -> nn.Module:
    model.get_submodule("1").train()
    return model


def few_classes(model: nn.Module) -> nn.Module:
    return Around(model, None, lambda logits: torch.cat([logits[:, :2], logits[:, 2:].logsumexp(1, True)], 1))


def not_finite(logits: Tensor) -> Tensor:
    """Overflow the logits of all images but the first."""
    return torch.cat([logits[:1], logits[1:] * torch.inf])


def imagenet(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return images * std.to(images) + mean.to(images)


GRADIENT, BATCH = "gradient is the derivative", "same gradient in any batch"
DEFECTS: dict[str, tuple[Callable[[nn.Module], nn.Module], set[str]]] = {
    "train mode": (lambda model: model.train(), {"eval mode"}),
    "one BatchNorm in training": (training_batchnorm, {"eval mode"}),
    "dropout in train mode": (lambda model: nn.Sequential(nn.Dropout(0.5), model).train(), {"eval mode"}),
    "dropout that stays on": (before(lambda x: nn.functional.dropout(x, 0.2, True)), {"repeatable", BATCH}),
    "noise on the input": (before(lambda x: x + 0.02 * torch.randn_like(x)), {"repeatable"}),
    "batch statistics": (batch_statistics, {"same logits under attack and in any batch"}),
    "another answer to attacks": (Watchful, {"same logits under attack and in any batch"}),
    "a memory that copies share": (Shared, {"the order of images does not matter"}),
    "float64": (lambda model: model.double(), {"float32"}),
    "autocast inside": (Autocast, {"float32"}),
    "half precision inside": (before(lambda x: x.half().to(x.dtype)), {"float32"}),
    "softmax": (after(lambda z: (z / 4).softmax(1)), {"logits, not probabilities"}),
    "sigmoid": (after(lambda z: z.sigmoid()), {"logits, not probabilities"}),
    "autograd inside": (Purifier, {"no autograd inside"}),
    "three classes": (few_classes, {"enough classes for every loss"}),
    "pixels from 0 to 255 expected": (before(lambda x: x / 255), {"takes pixels in [0, 1]"}),
    "normalised pixels expected": (before(imagenet), {"takes pixels in [0, 1]"}),
    "logits that are not finite": (after(not_finite), {"finite logits, loss and gradient"}),
    "infinite gradient": (before(lambda x: x + (x - x).sqrt()), {"finite logits, loss and gradient"}),
    "quantised input": (before(lambda x: (x * 32).round() / 32), {"gradient reaches the pixels"}),
    "a cut graph": (before(torch.detach), {"gradient reaches the pixels", GRADIENT}),
    "a wrong gradient on a third of images": (before(FlippedOnSome.apply), {GRADIENT}),
    "no gradient on a third of images": (
        before(lambda x: torch.where(some(x), x.detach(), x)),
        {"gradient reaches the pixels", GRADIENT},
    ),
    "noise as gradient": (before(NoiseGradient.apply), {GRADIENT, BATCH}),
    "another gradient in large batches": (
        before(lambda x: FlippedGradient.apply(x) if len(x) > 16 else x),
        {BATCH, GRADIENT},
    ),
    "gradient of the other sign": (before(FlippedGradient.apply), {GRADIENT}),
    "logits times 100": (after(lambda z: 100 * z), {"loss not saturated"}),
    "noise fixed for each image": (DeterministicNoise, {"stable under noise"}),
    "shattered gradient": (before(shatter), {"gradient lasts for a step"}),
}
SOUND: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it is": lambda model: model,
    "log-probabilities": after(lambda z: z.log_softmax(1)),
    "logits that are all positive": after(lambda z: z + 50),
    "softplus outputs": after(nn.functional.softplus),
    "logits from 0": after(lambda z: z - z.amin(1, keepdim=True)),
    "exponentiated scores": after(lambda z: (z / 4).exp()),
    "8-bit rounding, straight-through gradient": before(StraightThrough.apply),
    "cold": after(lambda z: z / 100),
    "pixels clamped": before(lambda x: x.clamp(0, 1)),
    "float32 inside float64": before(lambda x: x.float().to(x.dtype)),
    "normalised in the model": before(lambda x: ((x - 0.5) / 0.25) * 0.25 + 0.5),
}


def run(model: nn.Module, images: Images) -> list[Check]:
    checks = list(check_model(model, *images))
    assert len({check.name for check in checks}) == len(checks) == 16
    assert all(check.meaning and check.numbers for check in checks)
    return checks


def failures(model: nn.Module, images: Images) -> set[str]:
    return {check.name for check in run(model, images) if not check.passed}


class Fails(Around):
    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            raise ValueError("no gradients\nplease")
        logits: Tensor = self.model(images)
        return logits


def test_a_check_that_cannot_be_made_fails_with_its_reason(plain_model: nn.Module, test_images: Images) -> None:
    failed = [check for check in check_model(Fails(plain_model), *test_images) if not check.passed]
    assert {"gradient reaches the pixels", GRADIENT, "no autograd inside"} <= {check.name for check in failed}
    assert all("ValueError: no gradients)" in check.detail and check.failure == "inconclusive" for check in failed)


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_a_plain_model_passes(plain_model: nn.Module, test_images: Images, change: Callable[..., nn.Module]) -> None:
    assert failures(change(plain_model), test_images) == set()


def test_a_robust_model_passes(robust_model: nn.Module, test_images: Images) -> None:
    assert failures(robust_model, test_images) == set()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_caught_by_its_check(plain_model: nn.Module, test_images: Images, defect: str) -> None:
    plant, expected = DEFECTS[defect]
    pixels, labels = test_images
    if defect == "float64":
        pixels = pixels.double()
    if defect == "three classes":
        labels = labels.clamp_max(2)
    assert failures(plant(copy.deepcopy(plain_model)), (pixels, labels)) == expected


def test_every_check_has_a_defect() -> None:
    caught = set().union(*(expected for _, expected in DEFECTS.values()))
    assert len(caught) == 16


def test_the_model_and_the_random_state_stay_as_they_were(plain_model: nn.Module, test_images: Images) -> None:
    model = nn.Sequential(nn.Dropout(0.5), copy.deepcopy(plain_model)).train()
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    run(model, test_images)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_cannot_be_copied_is_checked_in_float32(plain_model: nn.Module, test_images: Images) -> None:
    class Single(Around):
        def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
            raise TypeError

    checks = {check.name: check for check in run(Single(plain_model, None), test_images)}
    assert all(check.passed for check in checks.values())
    assert checks[GRADIENT].numbers["step"] == 1e-3
    assert not {GRADIENT} ^ failures(Single(plain_model, FlippedGradient.apply), test_images)
