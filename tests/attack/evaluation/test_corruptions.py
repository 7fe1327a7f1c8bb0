import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from attack.evaluation.corruptions import HOME_MADE, SEVERITIES, corrupt, measure_corruptions
from stylize.console import InputError
from train import load_test_images

GENERATOR = np.random.default_rng(0)
SMOOTH = torch.from_numpy(gaussian_filter(GENERATOR.random((3, 40, 32)), (0, 2, 2)) * 4 - 1.5).float().clamp(0, 1)


def corrupted(name: str, severity: int, image: Tensor = SMOOTH) -> NDArray[np.float32]:
    result: NDArray[np.float32] = corrupt(image, name, severity, seed=0, key="00000001").numpy()
    return result


@pytest.mark.parametrize("name", HOME_MADE)
def test_severities_grow_and_pixels_stay_pixels(name: str) -> None:
    errors = []
    for severity in SEVERITIES:
        result = corrupted(name, severity)
        assert result.shape == (3, 40, 32)
        assert np.abs(result * 255 - (result * 255).round()).max() < 1e-4
        assert (result.min() >= 0, result.max() <= 1) == (True, True)
        errors.append(np.square(result - SMOOTH.numpy()).mean())
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("name", HOME_MADE)
def test_an_image_s_corruption_depends_on_nothing_else(name: str) -> None:
    first = corrupted(name, 2)
    torch.manual_seed(1)
    assert np.array_equal(corrupted(name, 2), first)
    other_key = corrupt(SMOOTH, name, 2, seed=0, key="00000002").numpy()
    other_seed = corrupt(SMOOTH, name, 2, seed=1, key="00000001").numpy()
    assert np.array_equal(first, other_key) == np.array_equal(first, other_seed) == ("noise" not in name)


def test_noise_has_its_strength() -> None:
    grey = torch.full((3, 100, 100), 0.5)
    assert corrupted("gaussian noise", 2, grey).std() == pytest.approx(0.08, rel=0.02)
    hit = corrupted("impulse noise", 3, grey) != np.float32(np.round(127.5)) / 255
    assert hit[0].mean() == pytest.approx(0.06, abs=0.01)
    assert np.array_equal(hit[0], hit[1])  # whole pixels


def test_blur_is_a_gaussian_filter() -> None:
    expected = gaussian_filter(SMOOTH.numpy(), (0, 0.64, 0.64), mode="mirror", radius=(0, 2, 2))
    assert np.abs(corrupted("gaussian blur", 2) - expected).max() <= 0.51 / 255


def test_brightness_and_contrast_are_linear() -> None:
    image = SMOOTH.numpy().astype(float)
    grey = np.tensordot((0.2989, 0.587, 0.114), image, 1).mean()
    assert np.abs(corrupted("brightness", 1) - np.clip(1.25 * image, 0, 1)).max() <= 0.51 / 255
    assert np.abs(corrupted("contrast", 3) - np.clip(grey + 0.3 * (image - grey), 0, 1)).max() <= 0.51 / 255


def test_pixels_grow() -> None:
    result = corrupted("pixelate", 2)
    assert np.array_equal(result[:, ::2, ::2], result[:, 1::2, 1::2])


Maker = Callable[..., Path]


class BrightestChannel(nn.Module):
    """Names the channel with the largest mean; three classes."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def errors_of(document: dict[str, Any]) -> dict[tuple[str, int], tuple[int, int]]:
    return {
        (each["corruption"], each["severity"]): (each["error"]["successes"], each["error"]["n"])
        for each in document["records"]
    }


def test_the_home_made_sweep_equals_a_slow_loop(make_shard_folder: Maker, tmp_path: Path) -> None:
    shards = make_shard_folder(test=12)
    document = measure_corruptions(BrightestChannel(), shards, tmp_path / "out.json", batch_size=5, seed=3)
    images = list(load_test_images(shards, 16, "small"))
    errors = {}
    for name in HOME_MADE:
        for severity in SEVERITIES:
            pictures = [corrupt(image.pixels, name, severity, 3, image.key).numpy() for image in images]
            wrong = [int(np.argmax(p.mean((1, 2)))) != image.label for p, image in zip(pictures, images, strict=True)]
            errors[name, severity] = wrong
    assert errors_of(document) == {place: (sum(wrong), 12) for place, wrong in errors.items()}
    of_images = np.array(list(errors.values())).mean(0)
    mean = document["mean_corruption_error"]
    assert mean["mean"] == pytest.approx(of_images.mean())
    assert mean["standard_error"] == pytest.approx(of_images.std(ddof=1) / 12**0.5)
    clean = sum(int(image.pixels.mean((1, 2)).argmax()) != image.label for image in images)
    assert (document["clean_error"]["successes"], document["clean_error"]["n"]) == (clean, 12)
    assert document["corruptions_from"] == "home-made"
    assert document == json.loads((tmp_path / "out.json").read_text())


def test_fewer_images_are_the_same_ones_each_time(make_shard_folder: Maker, tmp_path: Path) -> None:
    shards = make_shard_folder(test=12)
    runs = [
        measure_corruptions(BrightestChannel(), shards, tmp_path / "out.json", images=5, batch_size=size)["records"]
        for size in (2, 5)
    ]
    assert runs[0] == runs[1]
    assert {each["error"]["n"] for each in runs[0]} == {5}


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[list[Path], Path]:
    """Write two corruptions of 6 images: `fog` shows the label's channel, `snow` does from severity 3 on only."""
    labels = np.array([0, 1, 2, 2, 1, 0])
    right = np.zeros((6, 16, 16, 3), np.uint8)
    right[np.arange(6), :, :, labels] = 200
    wrong = np.roll(right, 1, axis=3)
    np.save(tmp_path / "fog.npy", np.concatenate([right] * 5))
    np.save(tmp_path / "heavy_snow.npy", np.concatenate([wrong, wrong, right, right, right]))
    np.save(tmp_path / "labels.npy", np.tile(labels, 5))
    return [tmp_path / "fog.npy", tmp_path / "heavy_snow.npy"], tmp_path / "labels.npy"


@pytest.mark.parametrize("size", [16, 20])
def test_published_arrays(make_shard_folder: Maker, arrays: tuple[list[Path], Path], tmp_path: Path, size: int) -> None:
    files, labels = arrays
    shards, out = make_shard_folder(size=size), tmp_path / "out.json"
    document = measure_corruptions(
        BrightestChannel(), shards, out, corruptions=files, labels=labels, images=4, batch_size=3
    )
    expected = {("fog", severity): (0, 4) for severity in range(1, 6)}
    expected |= {("heavy snow", severity): (4 if severity < 3 else 0, 4) for severity in range(1, 6)}
    assert errors_of(document) == expected
    assert document["mean_corruption_error"] == {"mean": 0.2, "standard_error": 0.0}
    assert document["clean_error"] is None
    assert document["corruptions_from"] == "published arrays"
    assert [file["name"] for file in document["files"]] == ["fog.npy", "heavy_snow.npy", "labels.npy"]


def test_a_folder_stands_for_its_arrays(make_shard_folder: Maker, arrays: tuple[list[Path], Path]) -> None:
    (fog, snow), labels = arrays
    folder = fog.parent
    np.save(folder / "saturate.npy", np.load(snow))  # for validation: only where it is asked for
    measure = partial(measure_corruptions, BrightestChannel(), make_shard_folder(size=16), folder / "out.json")
    whole = measure(corruptions=[folder])
    assert [file["name"] for file in whole["files"]] == ["fog.npy", "heavy_snow.npy", "labels.npy"]
    assert whole["records"] == measure(corruptions=[fog, snow], labels=labels)["records"]
    more = measure(corruptions=[folder, folder / "saturate.npy"])
    assert {record["corruption"] for record in more["records"]} == {"fog", "heavy snow", "saturate"}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"empty": []}, "no arrays"),
        ({"extra": ["saturate", "labels"]}, "no arrays"),
        ({"unlabelled": ["fog"]}, "labels.npy"),
        ({"one": ["fog", "labels"], "two": ["fog", "labels"]}, "two arrays of fog"),
    ],
)
def test_other_folders_are_refused(
    make_shard_folder: Maker, tmp_path: Path, folders: dict[str, list[str]], message: str
) -> None:
    for name, files in folders.items():
        (tmp_path / name).mkdir()
        for file in files:
            np.save(tmp_path / name / f"{file}.npy", np.zeros(5 if file == "labels" else (5, 8, 8, 3), np.uint8))
    given = [tmp_path / name for name in folders]
    with pytest.raises(InputError, match=message):
        measure_corruptions(BrightestChannel(), make_shard_folder(size=16), tmp_path / "out.json", corruptions=given)


def pickled(path: Path) -> None:
    np.save(path, np.array([print, "harm"], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("file", "spoil", "message"),
    [
        ("fog.npy", Path.unlink, "No such file"),
        ("fog.npy", lambda path: path.write_bytes(b""), "no NumPy array"),
        ("fog.npy", lambda path: path.write_bytes(path.read_bytes()[:2000]), "no NumPy array"),
        ("fog.npy", lambda path: path.write_text("<html>"), "no NumPy array"),
        ("fog.npy", pickled, "no NumPy array, or one of Python objects"),
        ("labels.npy", pickled, "no NumPy array, or one of Python objects"),
        ("fog.npy", lambda path: np.save(path, np.zeros((30, 16, 16, 3))), "holds float64"),
        ("fog.npy", lambda path: np.save(path, np.zeros((30, 3, 16, 16), np.uint8)), "not uint8"),
        ("fog.npy", lambda path: np.save(path, np.zeros((28, 16, 16, 3), np.uint8)), "not uint8"),
        ("fog.npy", lambda path: np.save(path, np.zeros((25, 16, 16, 3), np.uint8)), "has 25 images but"),
        ("labels.npy", lambda path: np.save(path, np.zeros(30)), "not integer labels"),
        ("labels.npy", lambda path: np.save(path, np.full(30, 3)), "labels below 3"),
        ("labels.npy", lambda path: np.save(path, np.arange(30) % 3 * (np.arange(30) < 7)), "five equal blocks"),
    ],
)
def test_other_files_are_refused(
    make_shard_folder: Maker,
    arrays: tuple[list[Path], Path],
    tmp_path: Path,
    file: str,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    spoil(tmp_path / file)
    files, labels = arrays
    with pytest.raises(InputError, match=message):
        measure_corruptions(
            BrightestChannel(), make_shard_folder(), tmp_path / "out.json", corruptions=files, labels=labels
        )
    assert not (tmp_path / "out.json").exists()


def test_arrays_need_their_labels(make_shard_folder: Maker, arrays: tuple[list[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belong together"):
        measure_corruptions(BrightestChannel(), make_shard_folder(), tmp_path / "out.json", corruptions=arrays[0])
