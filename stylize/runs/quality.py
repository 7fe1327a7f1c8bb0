"""The quality gate: pairs that teach little or nothing, and images that stand in both splits; never a failure."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from stylize.engine.engine import Pixels
from stylize.engine.transfer import COLOURS
from stylize.runs.spec import Spec
from stylize.shards.manifest import Flag
from stylize.sources.pictures import PictureError, decode_picture
from stylize.sources.source import Source

# In 8-bit grey levels; copies by the shipped decoder differ from their content by 45 and more, and vary by 30 and more.
MIN_DIFFERENCE = 3.0
MIN_DEVIATION = 3.0
REPEATED = "the same file is in train"
SMALL_SIDE = 64  # below it AdaIN at the images' own size leaves little of their shapes
GOOD_WORK_SIZE = 96


def small_images_note(spec: Spec, source: Source) -> str | None:
    """Return advice where small images would be stylized at their own size, judged by the first; None for others."""
    if spec.work_size is not None or spec.transfer == COLOURS:
        return None
    try:
        side = spec.size or min(decode_picture(source.read(source.splits[0], 0)).size)
    except PictureError:  # it will be named as a failure
        return None
    if side >= SMALL_SIDE:
        return None
    advice = f"--work-size {GOOD_WORK_SIZE} keeps more, and classifiers learn more from it (docs/decoder.md)"
    return f"Stylizing images of {side} pixels at their own size leaves little of their shapes: {advice}."


def flag_copies(key: str, content: Pixels, copies: Sequence[Pixels]) -> list[Flag]:
    """Flag every copy (H, W, 3) that is nearly its content, by mean absolute difference, or nearly one colour.

    The latter by the greatest standard deviation of a channel over the pixels.
    """
    flags = []
    for number, copy in enumerate(copies):
        # Sums and products over contiguous channels: a quarter of the time of `std` and 16-bit differences at 224 px.
        channels = np.ascontiguousarray(copy.reshape(-1, 3).T, dtype=np.float32)
        count = channels.shape[1]
        channels -= channels.sum(axis=1, keepdims=True) / count
        deviation = max(float(channel @ channel) / count for channel in channels) ** 0.5
        difference = int((np.maximum(copy, content) - np.minimum(copy, content)).sum(dtype=np.int64)) / copy.size
        if deviation < MIN_DEVIATION:
            flags.append(Flag("train", key, f"copy {number} is nearly constant (deviation {deviation:.1f} of 255)"))
        elif difference < MIN_DIFFERENCE:
            flags.append(
                Flag("train", key, f"copy {number} is nearly its content (difference {difference:.1f} of 255)")
            )
    return flags


def flag_repeated(train: Collection[str], others: Iterable[tuple[str, str]], split: str = "test") -> list[Flag]:
    """Flag a split's images, given as (key, SHA-256 of the source), whose file is among the SHA-256 of `train` too."""
    return [Flag(split, key, REPEATED) for key, sha256 in others if sha256 in train]
