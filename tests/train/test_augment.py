from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from stylize.console import InputError
from train import PairedShards, image_preset
from train.augment import VIEWS, ImagePreset, SampleBatch, augmix, jitter
from train.dataset import hashed


def _augment(preset: ImagePreset, images: torch.Tensor, entropy: int) -> torch.Tensor:
    """Augment (V, 3, H, W) beside another sample, which changes nothing."""
    pixels = images.permute(0, 2, 3, 1).numpy()
    return preset.augment([pixels, 255 - pixels], [entropy, 5])[0]


def _pair(height: int, width: int) -> torch.Tensor:
    content = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))
    return torch.stack([content, 255 - content])


@pytest.mark.parametrize(("name", "height", "width"), [("small", 32, 32), ("paper", 40, 70), ("paper", 64, 64)])
def test_pairs_stay_aligned(name: str, height: int, width: int) -> None:
    preset = image_preset(name, height)
    pair = _pair(height, width)
    crops = []
    for entropy in range(20):
        content, negative = _augment(preset, pair, entropy).int()
        assert content.shape == (3, preset.size, preset.size)
        assert (content + negative - 255).abs().max() <= 2  # interpolation rounds twice
        crops.append(content)
    assert len({crop.numpy().tobytes() for crop in crops}) == 20


def test_small_equals_padding_cropping_and_flipping() -> None:
    preset, pair = image_preset("small", 32), _pair(32, 32)
    padded = np.pad(pair.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    windows = {
        view.tobytes(): (top, left, flip)
        for top in range(9)
        for left in range(9)
        for crop in [padded[:, :, top : top + 32, left : left + 32]]
        for flip, view in ((False, crop), (True, crop[..., ::-1]))
    }
    seen = {windows[_augment(preset, pair, entropy).numpy().tobytes()] for entropy in range(2 * 81)}
    assert len(seen) == 162  # every shift with and without a flip, each from one value


def test_paper_crops_as_after_the_resize_of_the_papers_code() -> None:
    """Where the crop lies shows in a picture of coordinates; its corners and flips are drawn alike both ways."""
    height, width = 256, 384
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    place = torch.from_numpy(np.stack([columns / width, rows / height, columns / width]) * 255).to(torch.uint8)[None]
    recipe = v2.Compose([v2.Resize(330), v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()])
    torch.manual_seed(0)
    theirs = np.array([_corners(recipe(place)) for _ in range(400)])
    ours = np.array([_corners(_augment(image_preset("paper", None), place, entropy)) for entropy in range(400)])
    for side in range(4):
        assert stats.ks_2samp(ours[:, side], theirs[:, side]).pvalue > 0.001
    flips = np.array([(corners[:, 0] > corners[:, 2]).sum() for corners in (ours, theirs)])
    assert stats.fisher_exact(np.array([flips, 400 - flips])).pvalue > 0.001


def _corners(crop: torch.Tensor) -> list[int]:
    """Return left, top, right and bottom of a crop of the picture of coordinates."""
    (x, y, _) = crop[0].int()
    return [int(x[112, 0]), int(y[0, 112]), int(x[112, -1]), int(y[-1, 112])]


def test_paper_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    _augment(image_preset("paper", None), _pair(50, 80), 7)
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_resize() -> None:
    pair = _pair(32, 32)
    assert image_preset("small", 32).resize(pair) is pair
    assert image_preset("small", 16).resize(pair).shape == (2, 3, 16, 16)
    resized = image_preset("paper", 32).resize(_pair(50, 80))
    assert torch.equal(resized, v2.functional.resize(_pair(50, 80), [224, 224]))


@pytest.mark.parametrize(("size", "chosen"), [(None, "paper"), (32, "small"), (128, "small"), (129, "paper")])
def test_auto_looks_at_the_size(size: int | None, chosen: str) -> None:
    assert image_preset("auto", size).name == chosen


@pytest.mark.parametrize(("name", "size"), [("large", 32), ("small", None), ("small", 0)])
def test_bad_presets(name: str, size: int | None) -> None:
    with pytest.raises(InputError, match=repr(name) if name == "large" else f"not {size}"):
        image_preset(name, size)


ShardFolderMaker = Callable[..., Path]
SIZES = {"original": 1, "copy": 2, "two_copies": 3, "copy_of_class": 2, "jitter": 2, "augmix": 3}


@pytest.fixture
def samples(make_shard_folder: ShardFolderMaker) -> PairedShards:
    return PairedShards(make_shard_folder(styles_per_image=3), "train")


def draw(samples: PairedShards, epoch: int, index: int) -> SampleBatch:
    trained_on = samples.by_class(np.arange(len(samples) - 3))
    return SampleBatch(samples, trained_on, image_preset("small", 16), 0, epoch, [index, 0])


def views_of(samples: PairedShards, name: str, epoch: int, index: int) -> torch.Tensor:
    return VIEWS[name].make(draw(samples, epoch, index))[0]


@pytest.mark.parametrize("name", VIEWS)
def test_views_begin_with_the_original_and_repeat(samples: PairedShards, name: str) -> None:
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


def test_two_copies_differ(samples: PairedShards) -> None:
    for epoch in range(10):
        original, *two = views_of(samples, "two_copies", epoch, 4)
        numbers = [k for view in two for k, copy in enumerate(copies_of(original)) if torch.equal(view, copy)]
        assert len(set(numbers)) == 2


def test_a_wrong_partner_is_a_copy_of_another_training_image_of_the_class(samples: PairedShards) -> None:
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


def samples_augmented(samples: PairedShards, index: int, entropy: int) -> torch.Tensor:
    return image_preset("small", 16).augment(samples.read_many([index], [[0]]), [entropy])[0, 0]


IMAGE = torch.from_numpy(
    np.kron(np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8), np.ones((4, 4), np.uint8))
)


def _seeded(make: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, seed: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(image)


def test_jitter_is_that_of_tensors_and_does_not_depend_on_the_batch(samples: PairedShards) -> None:
    for seed in range(5):
        expected = _seeded(v2.ColorJitter(0.4, 0.4, 0.4, 0.1), IMAGE, seed)
        # Pillow's HSV has eight bits a channel, so turned colours are off by some levels.
        assert (_seeded(jitter, IMAGE, seed).int() - expected.int()).abs().float().mean() < 4
        assert (_seeded(jitter, IMAGE, seed).int() - IMAGE.int()).abs().float().mean() > 8
    batch = draw(samples, 0, 4)
    turned = replace(batch, indices=batch.indices[::-1])
    assert torch.equal(VIEWS["jitter"].make(batch), VIEWS["jitter"].make(turned).flip(0))


def _published_augmix(
    picture: Image.Image, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the mixture as in the code of Hendrycks et al. (2020): levels uniform in 0.1 to 3 of 10."""

    def level(greatest: float) -> float:
        return float(rng.uniform(0.1, 3)) * greatest / 10

    def moved(*matrix: float) -> Callable[[Image.Image], Image.Image]:
        return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    def operation(image: Image.Image) -> Image.Image:
        sign = int(rng.choice([-1, 1]))
        operations: list[Callable[[Image.Image], Image.Image]] = [
            ImageOps.autocontrast,
            ImageOps.equalize,
            lambda image: ImageOps.posterize(image, 4 - int(level(4))),
            lambda image: image.rotate(sign * int(level(30)), Image.Resampling.BILINEAR),
            lambda image: ImageOps.solarize(image, 256 - int(level(256))),
            moved(1, sign * level(0.3), 0, 0, 1, 0),
            moved(1, 0, 0, sign * level(0.3), 1, 0),
            moved(1, 0, sign * int(level(image.width / 3)), 0, 1, 0),
            moved(1, 0, 0, 0, 1, sign * int(level(image.height / 3))),
        ]
        return operations[rng.integers(9)](image)

    share, weights = rng.beta(1, 1), rng.dirichlet([1, 1, 1])
    mixture = share * np.asarray(picture, np.float64)
    for weight in weights:
        chain = picture
        for _ in range(rng.integers(1, 4)):
            chain = operation(chain)
        mixture += (1 - share) * weight * np.asarray(chain, np.float64)
    return mixture


def test_augmix_changes_images_as_the_published_code_does() -> None:
    """Torchvision's levels are other numbers than the published ones, of about the same size."""
    picture, rng = functional.to_pil_image(IMAGE), np.random.default_rng(0)
    pixels = np.asarray(picture, np.float64)
    theirs = [np.abs(_published_augmix(picture, rng) - pixels).mean() for _ in range(300)]
    ours = [float((_seeded(augmix, IMAGE, seed).double() - IMAGE.double()).abs().mean()) for seed in range(300)]
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.2)
    assert np.quantile(ours, 0.9) == pytest.approx(np.quantile(theirs, 0.9), rel=0.2)


def test_trivial_augment_is_torchvisions_and_the_same_for_a_pair() -> None:
    """Twice the same picture stays twice the same; every operation is drawn, by the crop's entropy alone."""
    picture = _pair(32, 32)[:1]
    preset, plain = image_preset("small", 32, "trivial"), image_preset("small", 32)
    assert preset.resize is not None
    changed = 0
    for entropy in range(40):
        first, second = _augment(preset, torch.cat([picture, picture]), entropy)
        assert torch.equal(first, second)
        (cropped,) = _augment(plain, picture, entropy)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hashed("trivial", entropy))
            assert torch.equal(first, v2.TrivialAugmentWide()(cropped[None])[0])
        changed += not torch.equal(first, cropped)
    assert changed > 20


@pytest.mark.parametrize("views", ["copy", "two_copies", "copy_of_class"])
def test_a_fraction_of_the_images_shows_copies(make_shard_folder: ShardFolderMaker, views: str) -> None:
    samples = PairedShards(make_shard_folder(train=90, styles_per_image=2), "train")
    by_class = samples.by_class(np.arange(len(samples)))

    def made(fraction: float, epoch: int = 0) -> torch.Tensor:
        preset = image_preset("small", 16)
        return VIEWS[views].make(SampleBatch(samples, by_class, preset, 0, epoch, range(90), fraction))

    def stylized(images: torch.Tensor) -> list[bool]:
        return [not torch.equal(images[i, 1], none[i, 1]) for i in range(90)]

    none, every = made(0.0), made(1.0)
    assert all(stylized(every))
    shown = stylized(made(0.3))
    assert 0.15 < np.mean(shown) < 0.45
    assert shown == stylized(made(0.3))
    more = stylized(made(0.6))
    assert all(b for a, b in zip(shown, more, strict=True) if a)
    if views != "copy_of_class":
        assert torch.equal(none[:, 1], none[:, 0])
        assert torch.equal(none[:, -1], none[:, 0])
