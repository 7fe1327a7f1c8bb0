"""Calibrate int8 networks on pictures that the project draws itself: the same everywhere, no data set needed."""

import hashlib
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stylize.drawn.patterns import PATTERN_NAMES, draw_pattern
from stylize.drawn.shapes import draw_shape
from stylize.engine.quantisation import (
    LEVELS,
    RANGE_STEPS,
    SEARCHED_VALUES,
    QuantisedConvolution,
    best_range,
    quantise_chain,
)
from stylize.networks.adain import ENCODER_CHANNELS, Decoder, Encoder, adain, unit_range

PICTURES = 24  # half shapes, half patterns
SIDE = 48
PATTERN_SEED = 1000  # other arrangements and palettes than those of the built-in styles
# Of the decoder's ranges: unseen pictures have higher peaks. In the encoder wider ranges do harm: see `docs/int8.md`.
HEADROOM = 2**0.5
Chain = list[QuantisedConvolution]


@cache
def calibration_pictures() -> NDArray[np.uint8]:
    """Draw the contents to calibrate on, (24, 48, 48, 3): shapes and patterns in turn."""
    shapes = (draw_shape(index, size=SIDE, split="train").picture for index in range(PICTURES // 2))
    names = PATTERN_NAMES[: PICTURES // 2]
    patterns = (draw_pattern(name, SIDE, PATTERN_SEED + index) for index, name in enumerate(names))
    pairs = zip(shapes, patterns, strict=True)
    return np.stack([np.asarray(picture) for pair in pairs for picture in pair])


def calibration_sha256() -> str:
    """Return the SHA-256 of what a calibration starts from, pictures and search, as the manifest records it."""
    search = repr((HEADROOM, SEARCHED_VALUES, RANGE_STEPS.tolist(), LEVELS))
    return hashlib.sha256(calibration_pictures().tobytes() + search.encode()).hexdigest()


@torch.inference_mode()
def quantise_pair(encoder: Encoder, decoder: Decoder, means: Tensor, deviations: Tensor) -> tuple[Chain, Chain]:
    """Quantise a float32 encoder and decoder apart, the decoder for style statistics (S, 512, 1, 1).

    The decoder's first convolution is left out: aligned features have peaks far beyond their deviation, and 256 levels
    either clip those or are too coarse for the rest.
    """
    pixels = unit_range(torch.from_numpy(calibration_pictures()).permute(0, 3, 1, 2))
    channels = torch.ones(1, ENCODER_CHANNELS[0][0], 1, 1)
    encoder_chain = quantise_chain(encoder.chain, pixels, (0 * channels, channels))
    first, *following = decoder.chain
    entered = first(_targets(encoder(pixels), means, deviations))
    ends = best_range(following[0].resample(entered), HEADROOM)
    return encoder_chain, quantise_chain(following, entered, ends, HEADROOM)


def _targets(features: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    """Return every calibration feature with one style, the styles spread evenly, and a third of them unstylized."""
    count, styles = len(features), len(means)
    chosen = torch.arange(count) * styles // count if styles > count else torch.arange(count) % styles
    return torch.cat([adain(features, means[chosen], deviations[chosen]), features[: count // 3]])
