"""Errors on corrupted images: published arrays, or corruptions made here."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from attack.evaluation.result import check_output, encode_result
from attack.evaluation.statistics import count_share
from attack.evaluation.target import Target, check_positive, choose_images, image_order, open_model
from stylize.console import InputError, Show, silent
from stylize.files import file_sha256, write_atomically
from train import image_preset
from train.records import describe_environment

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
SEVERITIES = (1, 2, 3)


def gaussian_noise(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Add noise; the strength is its standard deviation."""
    return pixels + strength * torch.randn(pixels.shape, generator=generator)


def impulse_noise(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Make a share of the pixels black or white."""
    chosen, white = torch.rand((2, *pixels.shape[1:]), generator=generator)
    return torch.where(chosen < strength, (white < 0.5).float(), pixels)


def gaussian_blur(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Blur; the strength is the Gaussian's standard deviation in shares of the shorter side."""
    sigma = strength * min(pixels.shape[1:])
    blurred: Tensor = F.gaussian_blur(pixels, [2 * round(3 * sigma) + 1] * 2, [sigma])
    return blurred


def pixelate(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Reduce to a share of the side, and enlarge again without smoothing."""
    size = list(pixels.shape[1:])
    small = F.resize(pixels, [max(1, round(strength * side)) for side in size], antialias=True)
    large: Tensor = F.resize(small, size, InterpolationMode.NEAREST)
    return large


def jpeg(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Compress as JPEG of a quality from 1 to 100; by Pillow, because torchvision's encoder is on its way out."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(pixels).permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=int(strength))
    with Image.open(buffer) as compressed:
        return torch.from_numpy(np.array(compressed)).permute(2, 0, 1) / 255


# Name: function of pixels, strength and generator, and its strength at the severities 1, 2 and 3.
HOME_MADE: dict[str, tuple[Corruption, tuple[float, float, float]]] = {
    "gaussian noise": (gaussian_noise, (0.04, 0.08, 0.12)),
    "impulse noise": (impulse_noise, (0.01, 0.03, 0.06)),
    "gaussian blur": (gaussian_blur, (0.01, 0.02, 0.03)),
    "pixelate": (pixelate, (0.75, 0.5, 0.35)),
    "brightness": (lambda pixels, factor, _: F.adjust_brightness(pixels, factor), (1.25, 1.5, 1.75)),
    "contrast": (lambda pixels, share, _: F.adjust_contrast(pixels, share), (0.7, 0.5, 0.3)),
    "jpeg": (jpeg, (50, 25, 10)),
}


def corrupt(pixels: Tensor, name: str, severity: int, seed: int, key: str) -> Tensor:
    """Corrupt one image (3, H, W) and round it to 8 bits; it depends on the arguments alone, not on other images."""
    function, strengths = HOME_MADE[name]
    digest = hashlib.sha256(f"{seed}:{name}:{severity}:{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return to_uint8(function(pixels, strengths[severity - 1], generator)) / 255


def to_uint8(pixels: Tensor) -> Tensor:
    """Round pixels, clipped to [0, 1], to 8 bits."""
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)


PUBLISHED_SEVERITIES = 5
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")  # of CIFAR-10-C, for validation: not in its mean
_MEND = "give files in the layout of CIFAR-10-C."


def find_arrays(given: Sequence[Path], labels: Path | None) -> tuple[list[Path], Path | None]:
    """Put the arrays of each folder in its place, but for the four that are `EXTRA`; it may hold the `labels.npy` too.

    Raises `InputError` where a folder has no arrays, two are of one name, or there are arrays or labels alone.
    """
    arrays: list[Path] = []
    for path in given:
        held = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        found = [file for file in held if file == path or file.stem not in (*EXTRA, "labels")]
        if not found:
            raise InputError(f"{path} has no arrays of corrupted images (.npy) in it: {_MEND}")
        arrays, labels = arrays + found, labels or (path / "labels.npy" if path.is_dir() else None)
    if bool(arrays) != bool(labels):
        raise InputError("--corruptions and --labels belong together: give both, or neither for the home-made sweep.")
    if twice := [path.stem for path in arrays if [other.stem for other in arrays].count(path.stem) > 1]:
        raise InputError(f"There are two arrays of {twice[0]}: give the corruptions of one data set.")
    return arrays, labels


def open_arrays(
    paths: Sequence[Path], labels: Path, classes: int
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """Open arrays of corrupted images (5 N, H, W, 3), the N of severity 1 first, by corruption, and the N labels.

    Raises `InputError` where a file is missing, not such an array, or does not fit the others or the classes.
    """
    arrays = {path: _open(path) for path in paths}
    for path, array in arrays.items():
        pictures = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
        if not pictures or not len(array) or len(array) % PUBLISHED_SEVERITIES:
            raise InputError(f"{path} holds {array.dtype} {array.shape}, not uint8 (5 N, H, W, 3): {_MEND}")
    given = _open(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"{labels} holds {given.dtype} {given.shape}, not integer labels (5 N,): {_MEND}")
    for path, array in arrays.items():
        if len(array) != len(given):
            raise InputError(f"{path} has {len(array)} images but {labels} {len(given)} labels: {_MEND}")
    blocks = np.asarray(given, np.int64).reshape(PUBLISHED_SEVERITIES, -1)
    if (blocks != blocks[0]).any() or blocks.min() < 0 or blocks.max() >= classes:
        raise InputError(f"{labels} does not hold five equal blocks of labels below {classes}: {_MEND}")
    return {path.stem.replace("_", " "): array for path, array in arrays.items()}, blocks[0]


def _open(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "no NumPy array, or one of Python objects"
        raise InputError(f"{path} cannot be read ({reason}): {_MEND}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an archive of arrays: {_MEND}")
    return array


FORMAT_VERSION = 1
HOME_MADE_NAME = "home-made"
PUBLISHED_NAME = "published arrays"
CLEAN = ("clean", 0)
Errors = dict[tuple[str, int], NDArray[np.bool_]]  # by (corruption, severity): for each of N images, whether it errs


def measure_corruptions(
    model: str | Path | nn.Module,
    shards: Path,
    out: Path,
    *,
    corruptions: Sequence[Path] = (),
    labels: Path | None = None,
    images: int = 1000,
    batch_size: int = 100,
    seed: int = 0,
    progress: Show = silent,
) -> dict[str, Any]:
    """Measure a model's errors on corrupted images, write the result to `out` and return it.

    The mean corruption error is the mean over corruptions of the mean over their severities, as it is reported for
    CIFAR-10-C; it is not divided by another model's, as ImageNet-C's is.

    Args:
        model: see `open_model`.
        shards: the shard folder, of the model's classes; its test images are corrupted where there are no arrays.
        out: the JSON file to write.
        corruptions: folders or arrays of CIFAR-10-C's layout, one a corruption; without any, the home-made sweep.
        labels: their labels; by default those of the folder.
        images: images of each corruption and severity, chosen by hash, or all where there are fewer.
        batch_size: images classified at a time.
        seed: chooses the images and the noise.
        progress: called with (stage, done, in all).

    Raises `InputError` where an argument is out of range, a file is missing or of another layout, or classes differ.
    """
    check_positive(images=images, batch_size=batch_size)
    corruptions, labels = find_arrays(corruptions, labels)
    check_output(out)
    target = open_model(model, shards)
    if labels:
        errors = _published_errors(target, corruptions, labels, images, batch_size, seed, progress)
        files = [{"name": path.name, "sha256": file_sha256(path)} for path in (*corruptions, labels)]
    else:
        errors, files = _home_made_errors(target, shards, images, batch_size, seed, progress), []
    document = {
        **{"kind": "corruptions", "format_version": FORMAT_VERSION},
        "corruptions_from": PUBLISHED_NAME if labels else HOME_MADE_NAME,
        **target.document,
        "files": files,
        "seed": seed,
        **summarise_errors(errors),
        **describe_environment(target.device),
    }
    write_atomically(out, encode_result(document))
    return document


def summarise_errors(errors: Errors) -> dict[str, Any]:
    """Return the mean corruption error with its standard error over images, and each error with Wilson's interval.

    Errors on the clean images, if there, stand under the name "clean" and apart from the mean.
    """
    shares = {place: count_share(int(found.sum()), len(found)) for place, found in errors.items()}
    of_images = np.mean([found for place, found in errors.items() if place != CLEAN], axis=0)
    spread = float(of_images.std(ddof=1) / np.sqrt(len(of_images))) if len(of_images) > 1 else None
    return {
        "images": len(of_images),
        "clean_error": shares.pop(CLEAN, None),
        "mean_corruption_error": {"mean": float(of_images.mean()), "standard_error": spread},
        "records": [
            {"corruption": name, "severity": severity, "error": error} for (name, severity), error in shares.items()
        ],
    }


def _home_made_errors(target: Target, shards: Path, images: int, batch_size: int, seed: int, progress: Show) -> Errors:
    keys = set(choose_images(shards, images, seed))
    places = [CLEAN, *((name, severity) for name in HOME_MADE for severity in SEVERITIES)]
    found: dict[tuple[str, int], list[bool]] = {place: [] for place in places}
    for batch in target.batches(batch_size, keys):
        for place in places:
            pixels = [
                image.pixels if place == CLEAN else corrupt(image.pixels, *place, seed, image.key) for image in batch
            ]
            classes = target.predict(torch.stack(pixels))
            found[place] += [each != image.label for each, image in zip(classes, batch, strict=True)]
        progress("Home-made corruptions", len(found[CLEAN]), len(keys))
    return {place: np.array(values) for place, values in found.items()}


def _published_errors(
    target: Target, files: Sequence[Path], labels_file: Path, images: int, batch_size: int, seed: int, progress: Show
) -> Errors:
    arrays, labels = open_arrays(files, labels_file, target.classes)
    chosen = np.sort([int(key) for key in image_order(map(str, range(len(labels))), seed)[:images]])
    preset = image_preset(target.card.image_preset, target.card.image_size)
    errors: Errors = {}
    for name, array in arrays.items():
        for severity in range(1, PUBLISHED_SEVERITIES + 1):
            classes: list[int] = []
            for start in range(0, len(chosen), batch_size):
                rows = chosen[start : start + batch_size] + (severity - 1) * len(labels)
                pixels = torch.from_numpy(array[rows]).permute(0, 3, 1, 2)
                classes += target.predict(preset.resize(pixels).float().div(255))
            errors[name, severity] = np.array(classes) != labels[chosen]
            progress("Corruptions", len(errors), len(arrays) * PUBLISHED_SEVERITIES)
    return errors
