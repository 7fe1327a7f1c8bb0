"""Shape bias on cue-conflict images (Geirhos et al. 2019)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attack.evaluation.result import check_output, encode_result
from attack.evaluation.statistics import count_share, share
from attack.evaluation.target import Target, check_positive, classes_of, open_model
from stylize.console import InputError, Show, silent
from stylize.files import write_atomically
from stylize.shards import read_shard
from stylize.shards.manifest import read_manifest
from train.records import describe_environment

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Decision:
    """One cue-conflict image: the classes of its shape and of its texture, and the class that the model names.

    The ranks say where the model's logits have the two, from 1 for the largest; classes of equal logits share the mean
    of their ranks, and after a logit that is not finite both are last. `counted`: a reference, where there is one,
    recognises the original.
    """

    key: str
    shape: int
    texture: int
    predicted: int
    shape_rank: float
    texture_rank: float
    counted: bool = True


def summarise(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Return the shape bias over counted images, and what it hides: how often, how nearly a model goes by either cue.

    shape bias = shape decisions / (shape decisions + texture decisions); the others name a third class. The mean
    reciprocal ranks of both cues look at the whole order of classes (arXiv 2603.10834).
    """
    decisions = [decision for decision in decisions if decision.counted]
    shape = sum(decision.predicted == decision.shape for decision in decisions)
    texture = sum(decision.predicted == decision.texture for decision in decisions)
    n = len(decisions)
    return {
        "shape_bias": count_share(shape, shape + texture),
        "shape_accuracy": count_share(shape, n),
        "texture_accuracy": count_share(texture, n),
        "neither": count_share(n - shape - texture, n),
        "shape_reciprocal_rank": asdict(share(np.array([1 / each.shape_rank for each in decisions]))),
        "texture_reciprocal_rank": asdict(share(np.array([1 / each.texture_rank for each in decisions]))),
    }


def ranks(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the ranks (B, K) of classes (B, K) in logits (B, C) (see `Decision`)."""
    own, others = logits.gather(1, classes)[:, :, None], logits[:, None]
    found = 1 + (others > own).sum(2) + ((others == own).sum(2) - 1) / 2
    return found.where(logits.isfinite().all(1)[:, None], logits.shape[1])


def measure_shape_bias(
    model: str | Path | nn.Module,
    shards: Path,
    out: Path,
    *,
    texture_free: Path | None = None,
    reference: str | Path | nn.Module | None = None,
    originals: Path | None = None,
    batch_size: int = 100,
    progress: Show = silent,
) -> dict[str, Any]:
    """Measure a model's shape bias, write the result to `out` and return it.

    Args:
        model: see `open_model`.
        shards: a folder of `stylize cue-conflict`; its class names must be the model's.
        out: the JSON file to write.
        texture_free: a folder of `stylize cue-conflict --texture-free`, on which the accuracy is measured too.
        reference: a normal model (see `open_model`); images count where it recognises the original, without texture.
        originals: the shard folder with the originals among its test images, for `reference`.
        batch_size: images classified at a time.
        progress: called with (stage, images done, images in all).

    Raises:
        InputError: a file is missing or damaged, class names differ, or images name no texture of another class.
    """
    check_positive(batch_size=batch_size)
    if (reference is None) != (originals is None):
        raise InputError("--reference and --originals belong together: give both, or neither to count every image.")
    check_output(out)
    textures = _read_textures(shards)
    target = open_model(model, shards)
    decisions = _decide(target, textures, batch_size, progress)
    recognised = dict[str, Any]()
    if reference is not None and originals is not None:
        judge = open_model(reference, originals)
        decisions, recognised = _judged(decisions, judge, shards, batch_size, progress)
    document = {
        "kind": "shape-bias",
        "format_version": FORMAT_VERSION,
        **target.document,
        **summarise(decisions),
        "reference": recognised or None,
        "texture_free": _accuracy(open_model(model, texture_free), batch_size, progress) if texture_free else None,
        **describe_environment(target.device),
        "records": [asdict(decision) for decision in decisions],
    }
    write_atomically(out, encode_result(document))
    return document


def _decide(target: Target, textures: Mapping[str, int], batch_size: int, progress: Show) -> list[Decision]:
    decisions: list[Decision] = []
    for batch in target.batches(batch_size):
        cues = [(image.label, textures[image.key]) for image in batch]
        logits = target.logits(torch.stack([image.pixels for image in batch])).cpu()
        found = zip(batch, cues, classes_of(logits), ranks(logits, torch.tensor(cues)).tolist(), strict=True)
        decisions += [Decision(image.key, *cue, predicted, *rank) for image, cue, predicted, rank in found]
        progress("Test images", len(decisions), target.test_images)
    return decisions


def _judged(
    decisions: Sequence[Decision], judge: Target, shards: Path, batch_size: int, progress: Show
) -> tuple[list[Decision], dict[str, Any]]:
    """Count decisions on images alone whose originals, known by their source's SHA-256, the judge recognises."""
    right = judge.classify(batch_size, progress)
    known = {digest for key, digest in _sources(judge.shards) if right[key] and digest}
    keys = {key for key, digest in _sources(shards) if digest in known}
    if not keys:
        raise InputError(f"{judge.reference} recognises no original of {shards} in {judge.shards}: check both.")
    judged = [replace(decision, counted=decision.key in keys) for decision in decisions]
    return judged, {"model": judge.reference, "recognised": count_share(len(keys), len(decisions))}


def _sources(shards: Path) -> Iterator[tuple[str, str]]:
    for path in read_manifest(shards).paths(shards, "test"):
        yield from ((sample.key, str(sample.metadata.get("source_sha256", ""))) for sample in read_shard(path))


def _accuracy(target: Target, batch_size: int, progress: Show) -> dict[str, Any]:
    right = target.classify(batch_size, progress)
    return {"shards": target.document["shards"], "accuracy": count_share(sum(right.values()), len(right))}


def _read_textures(shards: Path) -> dict[str, int]:
    """Return the class of every test image's texture by key."""
    manifest = read_manifest(shards)
    labels = {name: label for label, name in enumerate(manifest.class_names)}
    textures = {}
    for path in manifest.paths(shards, "test"):
        for sample in read_shard(path):
            texture = sample.metadata.get("texture")
            if not isinstance(texture, str) or labels.get(texture, sample.label) == sample.label:
                raise InputError(
                    f"{path}: sample {sample.key} has no texture of another class: "
                    "give a folder of `stylize cue-conflict`."
                )
            textures[sample.key] = labels[texture]
    return textures
