"""What two models look at (paper, Figure 6): LIME on test images that both classify correctly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attack.evaluation.images import ImageSet, ProgressReport, choose_images, load_image_set
from attack.evaluation.lime import lime_weights, superpixels
from attack.evaluation.predictions import predict
from attack.evaluation.subject import Subject, load_subject
from stylize.errors import InputError
from stylize.shards.manifest import read_manifest

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
    progress: ProgressReport = lambda stage, done, total: None,
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
    for name, value in (("--images", images), ("--parts", parts), ("--samples", samples)):
        if value < 1:
            raise InputError(f"{name} is {value}: give 1 or more.")
    subjects = [load_subject(model, shards) for model in models]
    sizes = {(subject.image_size, subject.image_preset) for subject in subjects}
    if len(sizes) != 1:
        raise InputError("The models take images of different sizes: explain models of one size.")
    ((size, preset),) = sizes
    tests = load_image_set(shards, size, preset, choose_images(shards, CANDIDATES, seed))
    chosen = _choose(subjects, tests, images)
    names = read_manifest(shards).class_names
    explanations = []
    for number, index in enumerate(chosen):
        explanations.append(_explain(subjects, tests, index, names, parts, samples, seed))
        progress("Explain", number + 1, len(chosen))
    return explanations


def _choose(subjects: Sequence[Subject], tests: ImageSet, images: int) -> list[int]:
    """Return the first images that all models get right, in rounds of one image of each class."""
    batches = torch.split(tests.pixels, BATCH)
    right = [
        np.concatenate([predict(subject, batch) for batch in batches]) == tests.labels.numpy() for subject in subjects
    ]
    seen: dict[int, int] = {}
    rounds = []
    for index in np.flatnonzero(np.all(right, axis=0)).tolist():
        label = int(tests.labels[index])
        seen[label] = seen.get(label, 0) + 1
        rounds.append((seen[label], index))
    if not rounds:
        raise InputError(f"No test image of {len(tests.keys)} is classified correctly by all models: train longer.")
    return [index for _, index in sorted(rounds)[:images]]


def _explain(
    subjects: Sequence[Subject], tests: ImageSet, index: int, names: Sequence[str], parts: int, samples: int, seed: int
) -> Explanation:
    pixels, label = tests.pixels[index], int(tests.labels[index])
    segments = superpixels(pixels, parts)
    weights = tuple(
        lime_weights(subject.model, pixels.to(subject.device), label, segments, samples=samples, seed=seed)
        for subject in subjects
    )
    shown = pixels.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Explanation(tests.keys[index], names[label], shown, segments.numpy(), weights)
