import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from stylize.console import InputError
from train import image_preset
from train.augment import ImagePreset


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
