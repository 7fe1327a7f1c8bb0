"""PGD towards classes: on linear models, where it is known which classes can be reached."""

import pytest
import torch
from torch import Tensor, nn

from attack.attacks import Norm
from attack.attacks.pgd import pgd, targeted
from stylize.console import InputError
from tests.attack.attacks.models import linear_model, pictures, predicted


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.006), ("l2", 0.1)])
def test_it_reaches_every_class_that_a_linear_model_has_within_the_radius(norm: Norm, epsilon: float) -> None:
    model, images = linear_model(), pictures(40, low=0.3, high=0.7)
    labels = predicted(model, images)
    weight, logits = model[1].weight, model(images)  # type: ignore[index]
    gaps = logits.gather(1, labels[:, None]) - logits
    steepness = (weight[labels][:, None] - weight).norm(p=1 if norm == "linf" else 2, dim=2)
    reachable = (gaps / steepness).scatter(1, labels[:, None], torch.inf).amin(1) < epsilon

    found = targeted(model, images, labels, norm=norm, epsilon=epsilon, targets=4, steps=10, batch_size=7)

    assert ((predicted(model, found.images) != labels) == reachable).all()
    assert 5 < reachable.sum() < 35
    assert found.backwards <= 40 * (1 + 5 * 10)


class Slopes(nn.Module):
    """Classes whose logits lie below the first at 0, each falling or rising by its own slope in one pixel."""

    def __init__(self, below: list[float], slopes: list[float]) -> None:
        super().__init__()
        self.training = False
        self.below, self.slopes = torch.tensor(below), torch.tensor(slopes)

    def forward(self, images: Tensor) -> Tensor:
        return self.slopes * (images[:, 0, 0, :1] - 0.5) - self.below


@pytest.mark.parametrize(("classes", "found"), [(99, False), (100, True)])
def test_of_many_classes_the_nearest_are_those_with_the_steepest_way(classes: int, found: bool) -> None:
    # The two likeliest other classes hardly move, and the other way; the third is reached at 0.15 / 3 = 0.05.
    model = Slopes([0, 0.1, 0.12, 0.15] + [9.0] * (classes - 4), [0, -0.01, -0.01, 3] + [0.0] * (classes - 4))
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    attacked = targeted(model, image, label, epsilon=0.06, targets=1, steps=5)
    assert bool(predicted(model, attacked.images) != label) == found


def test_a_class_that_is_always_nearly_the_largest_does_not_lead_astray() -> None:
    class Decoy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = linear_model()(images)
            order = logits.argsort(dim=1, descending=True)
            below = 0.01 + 0.005 * torch.sin(900 * images[:, 0, 0, 0])
            return logits.scatter(1, order[:, 1:2], (logits.amax(1) - below)[:, None])

    images = pictures(20, low=0.3, high=0.7)
    labels = predicted(linear_model(), images)
    decoy = Decoy().eval()
    plain = pgd(decoy, images, labels, epsilon=0.02, loss="margin", steps=20)
    assert (predicted(decoy, plain.images) == labels).all()
    found = targeted(decoy, images, labels, epsilon=0.02, targets=3, steps=5)
    assert (predicted(decoy, found.images) != labels).sum() > 5


def test_two_classes_no_images_and_arguments_out_of_range() -> None:
    images = pictures(3)
    labels = predicted(linear_model(2), images)
    assert (predicted(linear_model(2), targeted(linear_model(2), images, labels, epsilon=0.5).images) != labels).all()
    assert targeted(linear_model(), images[:0], labels[:0], epsilon=0.1).forwards == 0
    with pytest.raises(InputError, match="Targets is 0"):
        targeted(linear_model(), images, labels, epsilon=0.1, targets=0)
