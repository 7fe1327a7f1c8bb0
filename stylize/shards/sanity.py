"""Sanity checks of whole shards: one class alone, copies of other originals, test images that training has too."""

import hashlib
from collections.abc import Iterator, Mapping
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stylize.console import counted
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.index import SplitIndex, load_index
from stylize.shards.manifest import Manifest

CANDIDATES, PAIRS, PAIRS_PER_CLASS = 10_000, 100, 10
FEWEST_PAIRS = 10
SIDE = 16  # pixels; AdaIN keeps the large shapes in light and dark
FLAT = 1.0  # standard deviation in grey levels of 255, below which such a picture shows no shape
LEVEL = 0.001  # the chance that mixed-up pairs pass
READS = 2000  # in search of equal images
FEWEST_REPEATED, REPEATED_SHARE = 3, 0.01  # some data sets have a few by nature
Shape = NDArray[np.float32]


def folder_warnings(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the `sanity_warnings` of a folder without defects; nothing where it has no training split."""
    if manifest.samples("train"):
        splits = {split: load_index(directory, manifest, split) for split in ("train", "test", "val")}
        yield from sanity_warnings(splits.pop("train"), splits)


def sanity_warnings(train: SplitIndex, others: Mapping[str, SplitIndex]) -> Iterator[str]:
    """Yield a sentence for each thing that looks wrong with a folder; `others` are its other splits by name."""
    if has_single_class(train):
        yield "all training images are of one class, so a classifier has nothing to learn"
    if reason := mixed_up_copies(train):
        yield reason
    for split, index in others.items():
        repeated, images = repeated_images(train, index)
        if repeated >= FEWEST_REPEATED and repeated > REPEATED_SHARE * images:
            where = f"of {counted(images, f'{split} image')} looked at"
            yield f"{repeated} {where} are training images too, byte by byte, so accuracy on them is that of memory"


def has_single_class(train: SplitIndex) -> bool:
    """Tell whether all samples have the same label."""
    return bool((train.labels == train.labels[0]).all())


def mixed_up_copies(train: SplitIndex) -> str | None:
    """Return a warning where copies resemble their own original no more than others of its class.

    An exact sign test on `resemblance`; it says nothing on fewer than ten pairs that show anything.
    """
    wins, pairs = resemblance(train)
    chance = sum(comb(pairs, count) for count in range(wins, pairs + 1)) / 2**pairs
    if pairs < FEWEST_PAIRS or chance <= LEVEL:
        return None
    return (
        f"only {wins} of {counted(pairs, 'stylized copy', 'stylized copies')} resemble their own original more than "
        "other originals of its class, which is chance: the pairs may be mixed up"
    )


def resemblance(train: SplitIndex) -> tuple[int, int]:
    """Return how many copies of a sample resemble their own original more than most others of its class, of how many.

    Resemblance is the absolute correlation of luminance at 16 × 16 pixels.  Pairs with a flat picture do not count.
    """
    wins = pairs = 0
    for indices in _classes(train) if train.spans.shape[1] > 2 else ():
        shapes = [(_shape(original), _shape(copy)) for original, copy in (train.read(i, [0, 1]) for i in indices)]
        both = [(original, copy) for original, copy in shapes if original is not None and copy is not None]
        if len(both) < 2:
            continue
        originals, copies = (np.stack(side) for side in zip(*both, strict=True))
        correlations = np.abs(originals @ copies.T)
        own = correlations.diagonal().copy()
        np.fill_diagonal(correlations, np.nan)
        wins += int((own > np.nanmedian(correlations, axis=0)).sum())
        pairs += len(both)
    return wins, pairs


def _classes(train: SplitIndex) -> Iterator[NDArray[np.int64]]:
    """Yield random samples, the same each time, by class; those alone in their class come together."""
    chosen = np.random.default_rng(0).permutation(len(train))[:CANDIDATES]
    _, labels, counts = np.unique(train.labels[chosen], return_inverse=True, return_counts=True)
    labels = np.where(counts[labels] > 1, labels, -1)
    classes = np.unique(labels)
    for label in np.random.default_rng(0).permutation(classes)[: PAIRS // PAIRS_PER_CLASS]:
        yield chosen[labels == label][: max(PAIRS_PER_CLASS, PAIRS // len(classes))]


def _shape(payload: bytes) -> Shape | None:
    """Return the luminance of a picture at 16 × 16 pixels as a vector of mean 0 and length 1; None for a flat one."""
    try:
        small = decode_picture(payload).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except PictureError:
        return None  # a defect, which is not looked for here
    pixels = np.asarray(small, np.float32).ravel()
    if pixels.std() < FLAT:
        return None
    centred: Shape = pixels - pixels.mean()
    return centred / np.float32(np.linalg.norm(centred))


def repeated_images(train: SplitIndex, other: SplitIndex) -> tuple[int, int]:
    """Return how many images of a split have the bytes of an image of `train`, of how many looked at.

    Equal files have equal sizes: looked at are all images of sizes drawn at random, the same each time.
    """
    sizes, places = np.unique(np.concatenate([train.spans[:, 0, 1], other.spans[:, 0, 1]]), return_inverse=True)
    ours, theirs = places[: len(train)], places[len(train) :]
    drawn = np.random.default_rng(0).permutation(np.unique(theirs))
    counts = np.bincount(places, minlength=len(sizes))[drawn]
    drawn = drawn[: max(1, int(np.searchsorted(counts.cumsum(), READS)))]
    known = {_hash(train, index) for index in np.flatnonzero(np.isin(ours, drawn))[:READS]}
    candidates = np.flatnonzero(np.isin(theirs, drawn))[:READS]
    return sum(_hash(other, index) in known for index in candidates), len(candidates)


def _hash(index: SplitIndex, sample: np.int64) -> bytes:
    (payload,) = index.read(int(sample), [0])
    return hashlib.sha256(payload).digest()
