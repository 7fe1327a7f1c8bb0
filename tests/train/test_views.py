from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from train import PairDataset, image_preset
from train import augment as augmix_module
from train.augment import VIEWS, Draw, augmix, jitter

ShardFolderMaker = Callable[..., Path]
SIZES = {"original": 1, "copy": 2, "two_copies": 3, "copy_of_class": 2, "jitter": 2, "augmix": 3}


@pytest.fixture
def samples(make_shard_folder: ShardFolderMaker) -> PairDataset:
    return PairDataset(make_shard_folder(styles_per_image=3), "train")


def draw(samples: PairDataset, epoch: int, index: int) -> Draw:
    trained_on = samples.by_class(np.arange(len(samples) - 3))
    return Draw(samples, trained_on, image_preset("small", 16), 0, epoch, [index, 0])


def views_of(samples: PairDataset, name: str, epoch: int, index: int) -> torch.Tensor:
    return VIEWS[name].make(draw(samples, epoch, index))[0]


@pytest.mark.parametrize("name", VIEWS)
def test_views_begin_with_the_original_and_repeat(samples: PairDataset, name: str) -> None:
    made = views_of(samples, name, 1, 4)
    assert made.shape == (SIZES[name], 3, 16, 16)
    assert made.dtype == torch.uint8
    assert torch.equal(made, views_of(samples, name, 1, 4))
    assert torch.equal(made[:1], views_of(samples, "original", 1, 4))
    if name != "original":
        others = [views_of(samples, name, epoch, 4)[1] for epoch in range(5)]
        assert any(not torch.equal(others[0], other) for other in others)
        assert not torch.equal(made[0], made[1])


def copies_of(original: torch.Tensor) -> list[torch.Tensor]:
    return [255 - original // (k + 1) for k in range(3)]  # as the folder's copies are drawn


def test_two_copies_differ(samples: PairDataset) -> None:
    for epoch in range(10):
        original, *two = views_of(samples, "two_copies", epoch, 4)
        numbers = [k for view in two for k, copy in enumerate(copies_of(original)) if torch.equal(view, copy)]
        assert len(set(numbers)) == 2


def test_a_wrong_partner_is_a_copy_of_another_training_image_of_the_class(samples: PairDataset) -> None:
    found = set()
    for epoch in range(60):
        original, partner = views_of(samples, "copy_of_class", epoch, 4)
        assert not any(torch.equal(partner, copy) for copy in copies_of(original))
        entropy = draw(samples, epoch, 4).hashed("augmentation")[0]
        for index in range(len(samples)):
            same_crop = samples_augmented(samples, index, entropy)
            if any(torch.equal(partner, copy) for copy in copies_of(same_crop)):
                found.add(index)
    assert found == {index for index in range(21) if index % 3 == 1} - {4}


def samples_augmented(samples: PairDataset, index: int, entropy: int) -> torch.Tensor:
    return image_preset("small", 16).augment(samples.read_many([index], [[0]]), [entropy])[0, 0]


def test_jitter_is_torchvisions_in_this_order() -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(7)
    expected = image
    for adjust in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
        expected = adjust(expected, rng.uniform(0.6, 1.4))
    expected = functional.adjust_hue(expected, rng.uniform(-0.1, 0.1))
    # Pillow's HSV has eight bits a channel, so turned colours are off by some levels.
    assert (jitter(image, 7).int() - expected.int()).abs().float().mean() < 4
    assert (jitter(image, 7).int() - image.int()).abs().float().mean() > 8


def test_augmix_is_the_mixture_of_its_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(augmix_module, "OPERATIONS", (lambda picture, _: ImageOps.invert(picture),))
    rng = np.random.default_rng(5)
    weights, share = rng.dirichlet([1.0] * 3), rng.beta(1, 1)
    pixels = image.double().numpy()
    expected = share * pixels
    for weight in weights:
        depth = rng.integers(1, 4)
        for _ in range(depth):
            rng.integers(1)
        expected += (1 - share) * weight * (255 - pixels if depth % 2 else pixels)
    assert np.abs(augmix(image, 5).double().numpy() - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("operation", augmix_module.OPERATIONS)
def test_operations_change_pictures_mildly(operation: augmix_module.Operation) -> None:
    ramp = np.linspace(0, 200, 32, dtype=np.uint8)
    picture = Image.fromarray(np.stack([np.add.outer(ramp // 2, ramp // 2)] * 3, -1))
    made = [np.asarray(operation(picture, np.random.default_rng(seed)), int) for seed in range(12)]
    assert all(array.shape == (32, 32, 3) for array in made)
    difference = [np.abs(array - np.asarray(picture, int)).mean() for array in made]
    assert 0 < max(difference) < 90
