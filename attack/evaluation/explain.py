"""Which regions of an image a classifier looks at, by LIME (Ribeiro et al. 2016)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attack.evaluation.target import ImageSet, Target, check_positive, choose_images, load_image_set, open_model
from stylize.console import InputError, Show, silent

KERNEL_WIDTH = 0.25  # of the cosine distance between what is kept and the whole image, as in the authors' lime_image
RIDGE = 1.0
SLIC_ROUNDS = 10
COMPACTNESS = 0.1  # colour difference, of a range of 1, that counts as much as the distance between two superpixels


def superpixels(pixels: Tensor, count: int) -> Tensor:
    """Cut an image (3, H, W) in [0, 1] into about `count` superpixels: int64 (H, W), numbered from 0 without gaps.

    k-means in position and colour from a grid of centres, as SLIC (Achanta et al. 2012), without its search windows.
    """
    _, height, width = pixels.shape
    spacing = (height * width / count) ** 0.5
    rows, columns = max(1, round(height / spacing)), max(1, round(width / spacing))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    features = torch.cat([torch.stack([y, x]) / spacing, pixels / COMPACTNESS]).flatten(1).T.double()
    labels = (y * rows // height * columns + x * columns // width).flatten()
    for _ in range(SLIC_ROUNDS):
        sums = torch.zeros(rows * columns, features.shape[1], dtype=torch.float64).index_add_(0, labels, features)
        sizes = torch.bincount(labels, minlength=rows * columns)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], torch.inf)
        labels = torch.cdist(features, centres).nan_to_num(torch.inf).argmin(1)
    numbered: Tensor = labels.unique(return_inverse=True)[1]
    return numbered.view(height, width)


class WeightedRidge:
    """captum's interface of a surrogate: w and b that minimise Σ πᵢ (yᵢ - w·xᵢ - b)² + |w|²; `representation` is w."""

    def __init__(self) -> None:
        self.weights = torch.empty(0)

    def fit(self, train_data: Any, **_: object) -> None:
        """Fit to the one batch (x, y, π) that captum hands over."""
        ((x, y, similarity),) = train_data
        x, y, similarity = x.double(), y.double().flatten(), similarity.double().flatten()
        share = similarity / similarity.sum()
        x, y = x - share @ x, y - share @ y  # a free intercept
        gram = x.T @ (similarity[:, None] * x) + RIDGE * torch.eye(x.shape[1]).to(x)
        self.weights = torch.linalg.solve(gram, x.T @ (similarity * y))

    def representation(self) -> Tensor:
        """Return the weights (features,)."""
        return self.weights

    def __call__(self, x: Tensor) -> Tensor:
        """Return x · w."""
        return x.double() @ self.weights


def lime_weights(
    model: nn.Module, pixels: Tensor, label: int, segments: Tensor, *, samples: int, seed: int, batch_size: int = 50
) -> NDArray[np.float64]:
    """Return for each superpixel how much it adds to the probability of a class.

    `samples` times about half of the superpixels are replaced by their mean colour; a ridge regression explains the
    class's probability by those that are kept, weighted by how much of the image they are (cosine distance).

    Args:
        model: from images (B, 3, H, W) in [0, 1] to logits, in eval mode.
        pixels: the image (3, H, W), on the model's device.
        label: the class.
        segments: the superpixel of each pixel (H, W), see `superpixels`.
        samples: how often it is tried.
        seed: chooses what is replaced; the global generator is left as it is.
        batch_size: images classified at a time.

    Raises:
        InputError: captum is not installed.
    """
    try:
        from captum.attr import Lime  # an extra
    except ImportError:
        raise InputError("Explanations need captum: pip install 'stylized-pairing[explain]'.") from None
    probabilities = nn.Sequential(model, nn.Softmax(1))
    lime = Lime(probabilities, interpretable_model=WeightedRidge(), similarity_func=_similarity)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        weights: Tensor = lime.attribute(
            pixels[None],
            baselines=_mean_colours(pixels, segments)[None],
            target=label,
            feature_mask=segments.to(pixels.device)[None, None].expand(1, 3, -1, -1),
            n_samples=samples,
            perturbations_per_eval=batch_size,
            return_input_shape=False,
        )
    values: NDArray[np.float64] = weights.flatten().cpu().double().numpy()
    return values


def _similarity(_original: Tensor, _perturbed: Tensor, kept: Tensor, **_: object) -> float:
    """Return exp(-d² / 2 w²), where d is the cosine distance of the kept superpixels (1, K), 0 or 1, to all of them."""
    distance = 1 - float(kept.float().mean()) ** 0.5
    return float(np.exp(-(distance**2) / (2 * KERNEL_WIDTH**2)))


def _mean_colours(pixels: Tensor, segments: Tensor) -> Tensor:
    """Return the image with every superpixel in its mean colour."""
    index = segments.flatten().to(pixels.device)
    sums = torch.zeros(3, int(index.max()) + 1, device=pixels.device).index_add_(1, index, pixels.flatten(1))
    means = sums / torch.bincount(index)
    filled: Tensor = means[:, index].view_as(pixels)
    return filled


CANDIDATES = 500
BATCH = 50  # images classified at once


@dataclass(frozen=True)
class Explanation:
    """One image: uint8 pixels (H, W, 3), its superpixels (H, W), and for every model a weight per superpixel."""

    key: str
    class_name: str
    pixels: NDArray[np.uint8]
    segments: NDArray[np.int64]
    weights: tuple[NDArray[np.float64], ...]


def explain_models(
    models: Sequence[str | Path | nn.Module],
    shards: Path,
    *,
    images: int = 4,
    parts: int = 64,
    samples: int = 1000,
    seed: int = 0,
    progress: Show = silent,
) -> list[Explanation]:
    """Explain models side by side on test images that all of them classify correctly, one of each class at first.

    Args:
        models: two or more, see `open_model`; they must take images of one size.
        shards: the shard folder whose first 500 test images by hash are looked through.
        images: images to explain, or as many as there are.
        parts: superpixels to cut an image into, about.
        samples: changed images shown to a model for each explanation.
        seed: chooses images and changes.
        progress: called with (stage, done, in all).

    Raises:
        InputError: a file is missing or damaged, classes or image sizes differ, an argument is below 1, captum is not
            installed, or no image is classified correctly by all.
    """
    check_positive(images=images, parts=parts, samples=samples)
    targets = [open_model(model, shards) for model in models]
    sizes = {target.sees for target in targets}
    if len(sizes) != 1:
        raise InputError("The models take images of different sizes: explain models of one size.")
    ((size, preset),) = sizes
    tests = load_image_set(shards, size, preset, choose_images(shards, CANDIDATES, seed))
    chosen = _choose(targets, tests, images)
    explanations = []
    for index in chosen:
        pixels, label = tests.pixels[index], int(tests.labels[index])
        segments = superpixels(pixels, parts)
        weights = tuple(
            lime_weights(target.network, pixels.to(target.device), label, segments, samples=samples, seed=seed)
            for target in targets
        )
        shown = pixels.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        name = targets[0].card.class_names[label]
        explanations.append(Explanation(tests.keys[index], name, shown, segments.numpy(), weights))
        progress("Explain", len(explanations), len(chosen))
    return explanations


def _choose(targets: Sequence[Target], tests: ImageSet, images: int) -> list[int]:
    """Return the first images that all models get right, in rounds of one image of each class."""
    batches = torch.split(tests.pixels, BATCH)
    answers = [np.concatenate([target.predict(batch) for batch in batches]) for target in targets]
    seen: Counter[int] = Counter()
    rounds = []
    for index in np.flatnonzero(np.all(np.array(answers) == tests.labels.numpy(), axis=0)).tolist():
        label = int(tests.labels[index])
        seen[label] += 1
        rounds.append((seen[label], index))
    if not rounds:
        raise InputError(f"No test image of {len(tests.keys)} is classified correctly by all models: train longer.")
    return [index for _, index in sorted(rounds)[:images]]
