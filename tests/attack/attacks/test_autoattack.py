import logging
import sys
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from attack.attacks import Norm
from attack.attacks.autoattack import apgd, autoattack
from attack.attacks.pgd import pgd
from stylize.console import InputError
from tests.attack.attacks.models import conv_model, pictures, predicted

CASES: list[tuple[Norm, float]] = [("linf", 0.012), ("l2", 0.16)]
L1: tuple[Norm, float] = ("l1", 1.4)
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class Short(pyautoattack.AutoAttack):  # type: ignore[misc]
    """The library's own class with fewer steps and queries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for attack in (self.apgd, self.apgd_targeted):
            attack.n_iter, attack.n_iter_2, attack.n_iter_min, attack.size_decr = 8, 2, 1, 1
            attack.n_iter_orig = 8
        self.fab.n_iter = 3
        self.square.n_queries = 8


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", Short)


def some_right_some_wrong() -> tuple[Tensor, Tensor]:
    images = pictures(12)
    labels = predicted(conv_model(), images)
    labels[3] = (labels[3] + 1) % 5
    return images, labels


@pytest.mark.parametrize(("norm", "epsilon"), [*CASES, L1])
@pytest.mark.usefixtures("short")
def test_verdicts_are_the_librarys_own(norm: Norm, epsilon: float) -> None:
    images, labels = some_right_some_wrong()
    library = Short(conv_model(), norm=NAMES[norm], eps=epsilon, seed=3)
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = 4
    with torch.random.fork_rng(devices=[]):
        theirs, their_predictions = library.run_standard_evaluation(images, labels, batch_size=5)

    ours = autoattack(conv_model(), images, labels, norm=norm, epsilon=epsilon, seed=3, batch_size=5)

    wrong = predicted(conv_model(), ours.images) != labels
    assert 2 < wrong.sum() < 12
    assert torch.equal(wrong, their_predictions != labels)
    assert torch.equal(wrong, predicted(conv_model(), theirs) != labels)
    unmoved = (ours.images == images).flatten(1).all(1)
    assert torch.equal(unmoved, ~wrong | (torch.arange(12) == 3))
    moved = (ours.images.double() - images.double()).flatten(1)
    assert moved.norm(dim=1, p={"linf": torch.inf, "l2": 2, "l1": 1}[norm]).max() <= epsilon + 1e-5
    assert ours.images.min() >= 0
    assert ours.images.max() <= 1


@pytest.mark.usefixtures("short")
def test_one_part_is_the_librarys_own() -> None:
    images, labels = some_right_some_wrong()
    right = predicted(conv_model(), images) == labels
    with torch.random.fork_rng(devices=[]):
        theirs = Short(conv_model(), norm="Linf", eps=0.05, seed=3).square.perturb(images[right], labels[right])

    ours = autoattack(conv_model(), images, labels, parts=["square"], epsilon=0.05, seed=3).images[right]

    wrong = predicted(conv_model(), theirs) != labels[right]
    assert 0 < wrong.sum() < len(wrong)
    assert torch.equal(ours[wrong], theirs[wrong])
    assert torch.equal(ours[~wrong], images[right][~wrong])


@pytest.mark.parametrize(("norm", "epsilon"), CASES)
@pytest.mark.usefixtures("short")
def test_fab_finds_for_one_radius_what_it_finds_for_all(norm: Norm, epsilon: float) -> None:
    images, labels = some_right_some_wrong()
    nearest: dict[bytes, Tensor] = {}
    settings: dict[str, Any] = {"norm": norm, "parts": ["fab-t"]}
    small = autoattack(conv_model(), images, labels, epsilon=epsilon / 2, nearest=nearest, **settings)
    withstood = predicted(conv_model(), small.images) == labels
    images, labels = images[withstood], labels[withstood]

    anew, shared = (
        autoattack(conv_model(), images, labels, epsilon=epsilon, nearest=known, **settings)
        for known in (None, nearest)
    )

    wrong, same = (predicted(conv_model(), found.images) != labels for found in (anew, shared))
    assert 0 < wrong.sum() < len(wrong)
    assert torch.equal(wrong, same)
    assert shared.backwards == 0 < anew.backwards


@pytest.mark.usefixtures("short")
def test_passes_are_counted_and_saved() -> None:
    class Counting(nn.Module):
        forwards = backwards = 0

        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_model()
            next(self.inner.children()).register_full_backward_hook(self.count)

        def count(self, module: nn.Module, grad_input: object, grad_output: tuple[Tensor, ...]) -> None:
            self.backwards += len(grad_output[0])

        def forward(self, images: Tensor) -> Tensor:
            self.forwards += len(images)
            logits: Tensor = self.inner(images)
            return logits

    images, labels = some_right_some_wrong()
    model = Counting().eval()
    found = autoattack(model, images, labels, norm="linf", epsilon=0.012, seed=0, batch_size=5)
    assert (found.forwards, found.backwards) == (model.forwards, model.backwards)
    assert found.backwards > 0

    wide = autoattack(conv_model(), images, labels, norm="linf", epsilon=0.9, seed=0, batch_size=5)
    # Everything breaks within a few steps, and nothing costs more than those.
    assert (predicted(conv_model(), wide.images) != labels).all()
    assert wide.forwards < 12 * 12


@pytest.mark.usefixtures("short")
def test_seeds_and_global_state() -> None:
    images, labels = (both[:6] for both in some_right_some_wrong())
    model = conv_model()
    state = torch.random.get_rng_state()
    settings: dict[str, Any] = {"norm": "linf", "epsilon": 0.012, "batch_size": 4}

    first = autoattack(model, images, labels, **settings, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    again = autoattack(model, images, labels, **settings, seed=0)
    other = autoattack(model, images, labels, **settings, seed=1)

    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("norm", "epsilon"), CASES)
def test_pgd_agrees_with_apgd(norm: Norm, epsilon: float) -> None:
    images = pictures(40)
    labels = predicted(conv_model(), images)
    settings: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "seed": 0, "batch_size": 40}

    theirs = apgd(conv_model(), images, labels, **settings, loss="ce")
    ours = pgd(conv_model(), images, labels, **settings, steps=40, step_size=epsilon / 8, loss="ce", restarts=1)

    wrong = [predicted(conv_model(), found.images) != labels for found in (theirs, ours)]
    assert 5 < wrong[0].sum() < 35
    assert (wrong[0] != wrong[1]).sum() <= 1


def test_the_constants_are_those_of_the_standard() -> None:
    standard = pyautoattack.AutoAttack(conv_model(), norm="Linf", eps=0.1, seed=0)
    assert standard.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    for attack in (standard.apgd, standard.apgd_targeted):
        assert (attack.n_iter, attack.n_restarts, attack.thr_decr, attack.eot_iter) == (100, 1, 0.75, 1)
    assert (standard.fab.n_iter, standard.fab.n_restarts, standard.square.n_queries) == (100, 1, 5000)
    assert standard.apgd_targeted.n_target_classes == standard.fab.n_target_classes == 9


@pytest.mark.usefixtures("short")
def test_quiet_where_gradients_are_zero(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    images, labels = pictures(3), torch.zeros(3, dtype=torch.int64)
    layer = nn.Linear(192, 5)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([1.0, 0.0, -1.0, 0.5, 0.2]))
    model = nn.Sequential(nn.Flatten(), layer).eval()

    with caplog.at_level(logging.WARNING):
        found = autoattack(model, images, labels, norm="linf", epsilon=0.1, seed=0, batch_size=2)

    assert torch.equal(found.images, images)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.usefixtures("short")
def test_channels_last_and_no_images() -> None:
    images, labels = some_right_some_wrong()
    model = conv_model().to(memory_format=torch.channels_last)
    for norm, epsilon in CASES:
        last = autoattack(model, images.to(memory_format=torch.channels_last), labels, norm=norm, epsilon=epsilon,
                          seed=0, batch_size=20)  # fmt: skip
        assert (predicted(model, last.images) != labels).any()
    none = autoattack(model, images[:0], labels[:0], norm="l2", epsilon=0.1, seed=0, batch_size=20)
    assert none.images.shape == (0, 3, 8, 8)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures(2), torch.tensor([0, 1])
    settings: dict[str, Any] = {"norm": "linf", "epsilon": 0.1, "seed": 0, "batch_size": 2}
    for model, change, message in (
        (conv_model(3), {}, "needs 4 classes and the model has 3"),
        (conv_model(), {"norm": "l0"}, "'l0'"),
        (conv_model(), {"epsilon": 0.0}, "Epsilon is 0.0"),
        (conv_model(), {"batch_size": 0}, "Batch size is 0"),
        (conv_model().train(), {}, "training mode"),
    ):
        with pytest.raises(InputError, match=message):
            autoattack(model, images, labels, **{**settings, **change})
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(InputError, match=r"stylized-pairing\[attacks\]"):
        autoattack(conv_model(), images, labels, **settings)
