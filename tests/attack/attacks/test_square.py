from typing import Any

import pyautoattack.square
import pytest
import torch
from torch import Tensor, nn

from attack.attacks.autoattack import square
from stylize.console import InputError
from tests.attack.attacks.models import conv_model, losses_of, pictures, predicted

SETTINGS: dict[str, Any] = {"epsilon": 0.05, "queries": 60, "seed": 0, "batch_size": 10}


class Asked(nn.Module):
    """A model that keeps every batch it is asked about, and refuses gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv_model()
        self.seen: list[Tensor] = []
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(images.clone())
        logits: Tensor = self.inner(images)
        return logits


def test_equals_a_search_replayed_by_hand() -> None:
    """Every point asked about differs from the best so far in one square at ± epsilon, and the best is kept."""
    model, images = Asked(), pictures(1, low=0.2, high=0.8)
    label = predicted(conv_model(), images)

    found = square(model, images, label, **{**SETTINGS, "epsilon": 0.01})

    clean, stripes, *tries = model.seen
    assert torch.equal(clean, images)
    signs = (stripes - images) / 0.01
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs), atol=1e-4, rtol=0)
    torch.testing.assert_close(signs, signs[:, :, :1].expand_as(signs), atol=1e-3, rtol=0)
    best, sides, kept = stripes, [], 0
    for tried in tries:
        rows, columns = (tried != best).any(1)[0].nonzero(as_tuple=True)
        if len(rows):
            window = tried[0, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            origin = images[0, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            colours = (window - origin) / 0.01
            torch.testing.assert_close(colours.abs(), torch.ones_like(colours), atol=1e-4, rtol=0)
            sides.append(max(window.shape[1:]))
        if losses_of(conv_model(), tried, label, "margin") > losses_of(conv_model(), best, label, "margin"):
            best, kept = tried, kept + 1
    assert torch.equal(found.images, best)
    assert len(tries) == 59
    assert 3 < kept < 59
    assert max(sides) == max(sides[:3]) == 4  # √(0.8 · 64 / 4): of 60 queries the first stands for 167 of 10,000
    assert max(sides[-10:]) == 1


def test_worst_case_counts_and_limits() -> None:
    model, images = Asked(), pictures(30)
    images[0, 0], images[1, 1] = 0.0, 1.0
    labels = predicted(conv_model(), images)
    labels[5] = (labels[5] + 1) % 5

    found = square(model, images, labels, **SETTINGS)

    wrong = predicted(conv_model(), found.images) != labels
    assert 1 < wrong.sum() < 30  # more than the one that was wrong before, not all
    assert torch.equal(found.images[5], images[5])
    assert found.forwards == sum(len(batch) for batch in model.seen) < 30 * 61
    assert found.backwards == 0
    assert (found.images.double() - images).abs().max() <= 0.05 + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    more = square(conv_model(), images, labels, **{**SETTINGS, "epsilon": 0.5})
    assert (predicted(conv_model(), more.images) != labels).all()


def test_as_strong_as_the_librarys() -> None:
    images = pictures(60)
    labels = predicted(conv_model(), images)
    library = pyautoattack.square.SquareAttack(conv_model(), eps=0.05, n_queries=100, seed=0, resc_schedule=True)
    with torch.random.fork_rng(devices=[]):
        theirs = library.perturb(images, labels)

    ours = square(conv_model(), images, labels, **{**SETTINGS, "queries": 100, "batch_size": 60}).images

    broken = [int((predicted(conv_model(), found) != labels).sum()) for found in (ours, theirs)]
    assert min(broken) > 10
    assert abs(broken[0] - broken[1]) <= 8


def test_neither_batches_nor_other_images_nor_global_numbers_matter() -> None:
    images = pictures(12)
    labels = predicted(conv_model(), images)
    state = torch.random.get_rng_state()

    whole = square(conv_model(), images, labels, **SETTINGS).images
    parts = square(conv_model(), images, labels, **{**SETTINGS, "batch_size": 5}).images

    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(parts, whole)
    assert not torch.equal(square(conv_model(), images, labels, **{**SETTINGS, "seed": 1}).images, whole)


@pytest.mark.parametrize("shape", [(1, 3, 8, 12), (1, 3, 12, 8), (1, 1, 1, 1)])
def test_pictures_of_any_shape(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[1], 3)).eval()
    images = torch.full(shape, 0.5)
    found = square(model, images, predicted(model, images), **SETTINGS)
    assert found.images.shape == shape


def test_what_is_refused() -> None:
    images, labels = pictures(2), torch.tensor([0, 1])
    for change, message in (
        ({"epsilon": 0.0}, "Epsilon is 0.0"),
        ({"queries": 0}, "Queries is 0"),
        ({"batch_size": 0}, "Batch size is 0"),
    ):
        with pytest.raises(InputError, match=message):
            square(conv_model(), images, labels, **{**SETTINGS, **change})
    with pytest.raises(InputError, match="training mode"):
        square(conv_model().train(), images, labels, **SETTINGS)
