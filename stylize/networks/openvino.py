"""The stylizer by OpenVINO, in int8 or bfloat16; int8 weights are calibrated on pictures that the project draws."""

import copy
import hashlib
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stylize.console import InputError
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder, Layer, UpsampledConvolution, adain, unit_range
from stylize.networks.devices import best_dtype, sums_int8_exactly
from stylize.sources.patterns import PATTERN_NAMES, draw_pattern
from stylize.sources.shapes import draw_shape

INSTALL = 'pip install "stylized-pairing[openvino]"'
BORDER = np.array([0, 0, 1, 1])  # of (B, C, H, W), before and behind
END = np.iinfo(np.int64).max  # of an axis, to slice up to
LEVELS = 255  # steps of an 8-bit activation
WEIGHT_LEVEL = 127  # the largest 8-bit weight; symmetric
SEARCHED_VALUES = 60_000  # of a layer's activations, to find its range
# Candidate upper ends of a range, a fixed grid of powers of two, so that a last bit of an activation moves none.
RANGE_STEPS = torch.arange(-64, 97) / 8
SMALLEST_PEAK = 2.0**-8  # the first of the grid, for layers that are silent
SMALLEST_SHARE = 1e-2  # of the loudest channel's peak, so that a silent channel's range is not empty
CALIBRATION_PICTURES = 24  # half shapes, half patterns
CALIBRATION_SIDE = 48
PATTERN_SEED = 1000  # other arrangements and palettes than those of the built-in styles
# Of the decoder's ranges: unseen pictures have higher peaks. In the encoder wider ranges do harm: see `docs/int8.md`.
HEADROOM = 2**0.5


def int8_network(encoder: Encoder, decoder: Decoder, means: Tensor, stds: Tensor) -> AdaINNetwork:
    """Return the stylizer of a float32 pair in int8 on the CPU, calibrated for style statistics (S, 512, 1, 1).

    Raises `InputError` where OpenVINO is missing or the CPU does not multiply int8 exactly in hardware.
    """
    core = import_openvino().Core()
    if not sums_int8_exactly() or "INT8" not in _capabilities(core):
        raise InputError("This CPU does not multiply int8 exactly in hardware (VNNI or AMX): give --backend torch.")
    encoder_chain, decoder_chain = quantise_pair(encoder, decoder, means, stds)
    first, *following = decoder.chain
    # What is not int8 stays float32: by default it would be bfloat16 where the CPU has that.
    return AdaINNetwork(
        CompiledChain(core, quantised_graph(encoder.chain, encoder_chain), "f32"),
        MixedDecoder(first.convolution, CompiledChain(core, quantised_graph(following, decoder_chain), "f32")),
    )


def bfloat16_network(encoder: Encoder, decoder: Decoder) -> AdaINNetwork:
    """Return the stylizer of a float32 pair in bfloat16 on the CPU.

    Raises `InputError` where OpenVINO is missing or the CPU does not multiply bfloat16 in hardware.
    """
    core = import_openvino().Core()
    if "BF16" not in _capabilities(core):
        raise InputError("This CPU does not multiply bfloat16 in hardware: give --backend torch.")
    return AdaINNetwork(*(CompiledChain(core, plain_graph(network.chain), "bf16") for network in (encoder, decoder)))


def _capabilities(core: Any) -> Sequence[str]:
    names: Sequence[str] = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return names


class MixedDecoder(nn.Module):
    """A decoder whose first convolution torch runs in floating point, and OpenVINO those that follow in int8."""

    def __init__(self, first: nn.Conv2d, following: nn.Module) -> None:
        super().__init__()
        self._dtype = best_dtype(torch.device("cpu"))
        self._first = copy.deepcopy(first).to(self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._following = following

    def forward(self, features: Tensor) -> Tensor:
        """Decode relu4_1 features (B, 512, h, w) to pixels (B, 3, 8h, 8w), not clipped."""
        entry = features.to(self._dtype, memory_format=torch.channels_last)
        pixels: Tensor = self._following(F.relu(self._first(entry)).float())
        return pixels


class CompiledChain(nn.Module):
    """A graph of layers compiled for pictures of any size, in a precision of OpenVINO's; float32 in, float32 out.

    Every Python thread has a compiled model of its own, with as many threads of the CPU as PyTorch has there.
    """

    def __init__(self, core: Any, graph: Any, precision: str) -> None:
        super().__init__()
        self._core, self._graph, self._precision = core, graph, precision
        self._compiled = threading.local()

    def forward(self, activations: Tensor) -> Tensor:
        """Run the chain on (B, C, H, W)."""
        if not hasattr(self._compiled, "model"):
            # Without pinning, because pinned models of one thread each may share a core.
            options = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
            options |= {"INFERENCE_PRECISION_HINT": self._precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
            self._compiled.model = self._core.compile_model(self._graph, "CPU", options)
        return torch.from_numpy(self._compiled.model([activations.contiguous().numpy()])[0].copy())


def import_openvino() -> Any:
    """Return the module `openvino`; raise `InputError` where the extra is not installed."""
    # OpenVINO reports its use to its makers as soon as it is imported; without this module it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
        import openvino.opset13
    except ImportError:
        raise InputError(f"OpenVINO is not installed: {INSTALL}, or give --backend torch.") from None
    return openvino


@dataclass(frozen=True)
class QuantisedConvolution:
    """A reflection-padded 3×3 convolution of inputs rounded to 256 levels from `low` to `high`, each (1, C, 1, 1).

    Rounded inputs are expressed in [0, 1] for every channel; `weight`, int8 (C', C, 3, 3), its factor `scale`
    (C', 1, 1, 1) and `bias` (C',) take up the channels' ranges, exactly, as reflection pads with values of the channel.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __call__(self, activations: Tensor) -> Tensor:
        """Return the output in float32, (B, C', H, W), of float32 activations (B, C, H, W)."""
        levels = ((activations - self.low) / (self.high - self.low) * LEVELS).round().clamp(0, LEVELS)
        padded = F.pad(levels / LEVELS, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.weight.float() * self.scale, self.bias)


@cache
def calibration_pictures() -> NDArray[np.uint8]:
    """Draw the contents to calibrate on, (24, 48, 48, 3): shapes and patterns in turn."""
    pictures = []
    for index, name in enumerate(PATTERN_NAMES[: CALIBRATION_PICTURES // 2]):
        pictures.append(draw_shape(index, size=CALIBRATION_SIDE, split="train").picture)
        pictures.append(draw_pattern(name, CALIBRATION_SIDE, PATTERN_SEED + index))
    return np.stack([np.asarray(picture) for picture in pictures])


def calibration_sha256() -> str:
    """Return the SHA-256 of what a calibration starts from, pictures and search, as the manifest records it."""
    search = repr((HEADROOM, SEARCHED_VALUES, RANGE_STEPS.tolist(), LEVELS))
    return hashlib.sha256(calibration_pictures().tobytes() + search.encode()).hexdigest()


@torch.inference_mode()
def quantise_pair(
    encoder: Encoder, decoder: Decoder, means: Tensor, stds: Tensor
) -> tuple[list[QuantisedConvolution], list[QuantisedConvolution]]:
    """Quantise a float32 encoder and decoder apart, the decoder for style statistics (S, 512, 1, 1).

    The decoder's first convolution is left out: aligned features have peaks many standard deviations from the mean, and
    256 levels either clip those or are too coarse for the rest.
    """
    pixels = unit_range(torch.from_numpy(calibration_pictures()).permute(0, 3, 1, 2))
    channels = torch.ones(1, 3, 1, 1)
    encoder_chain = quantise_chain(encoder.chain, pixels, (0 * channels, channels))
    first, *following = decoder.chain
    entered = first(_targets(encoder(pixels), means, stds))
    ends = best_range(following[0].resample(entered), HEADROOM)
    return encoder_chain, quantise_chain(following, entered, ends, HEADROOM)


def _targets(features: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return every calibration feature with one style, the styles spread evenly, and a third of them unstylized."""
    count, styles = len(features), len(means)
    chosen = torch.arange(count) * styles // count if styles > count else torch.arange(count) % styles
    return torch.cat([adain(features, means[chosen], stds[chosen]), features[: count // 3]])


def quantise_chain(
    layers: Sequence[Layer], activations: Tensor, first: tuple[Tensor, Tensor], headroom: float = 1.0
) -> list[QuantisedConvolution]:
    """Quantise a network's convolutions one after the other, each on what the ones before it now give.

    Args:
        layers: The layers in their order.
        activations: Calibration input (N, C, H, W).
        first: Lower and upper end of the first convolution's input, each (1, C, 1, 1).
        headroom: Factor of the other ranges, for inputs with higher peaks than the calibration's.
    """
    chain: list[QuantisedConvolution] = []
    exact = rounded = activations
    for layer in layers:
        exact, rounded = layer.resample(exact), layer.resample(rounded)
        low, high = best_range(exact, headroom) if chain else first
        wanted = layer.convolution(exact)
        quantised = _quantise(layer.convolution, low, high)
        found = quantised(rounded)
        shift = (wanted - found).mean((0, 2, 3))  # of a channel's mean by rounding, in the layers before too
        chain.append(replace(quantised, bias=quantised.bias + shift))
        exact, rounded = F.relu(wanted), F.relu(found + shift[:, None, None])
    return chain


def _quantise(convolution: nn.Conv2d, low: Tensor, high: Tensor) -> QuantisedConvolution:
    """Round a convolution's weights, into which the ranges of its input's channels are folded."""
    weight, bias = convolution.weight.detach(), cast("Tensor", convolution.bias).detach()
    gain, offset = high - low, torch.einsum("oihw,i->o", weight, low.flatten().expand(weight.shape[1]))
    weight = weight * gain
    scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / WEIGHT_LEVEL
    levels = (weight / scale).round().to(torch.int8)
    return QuantisedConvolution(low, high, levels, scale, bias + offset)


def best_range(activations: Tensor, headroom: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return a range from 0 for every channel of non-negative activations (N, C, H, W), each end (1, C, 1, 1).

    Half of the channels' differences (in powers) goes to the next weights, half stays (SmoothQuant, equation 4).
    """
    peaks = activations.amax((0, 2, 3), keepdim=True)
    share = (peaks / peaks.max().clamp_min(SMALLEST_PEAK)).clamp_min(SMALLEST_SHARE).sqrt()
    high = best_upper_end(activations / share) * share * headroom
    return torch.zeros_like(high), high


def best_upper_end(activations: Tensor) -> Tensor:
    """Return the end (1, 1, 1, 1) of the range from 0 that rounds non-negative activations with the least error."""
    values = activations.flatten()
    values = values[:: max(1, len(values) // SEARCHED_VALUES) | 1]
    peak = values.max().clamp_min(SMALLEST_PEAK)
    ends = [end for end in 2**RANGE_STEPS if 0.1 * peak <= end <= 1.2 * peak]
    rounded = ((values / end * LEVELS).round().clamp(0, LEVELS) / LEVELS * end for end in ends)
    errors = [float((values - one).square().mean()) for one in rounded]
    best: Tensor = ends[errors.index(min(errors))]
    return best.reshape(1, 1, 1, 1)


def quantised_graph(layers: Sequence[Layer], quantised: Sequence[QuantisedConvolution]) -> Any:
    """Return a model of layers with quantised convolutions: float32 (B, C, H, W) of any size in and out."""
    ops = import_openvino().opset13
    entry = node = _entry(ops, layers)
    zero, one = (np.full((1, 1, 1, 1), end, np.float32) for end in (0, 1))
    for layer, convolution in zip(layers, quantised, strict=True):
        rounded = ops.fake_quantize(node, convolution.low.numpy(), convolution.high.numpy(), zero, one, LEVELS + 1)
        rounded = _resampled(ops, rounded, layer)  # after the rounding, so that it moves bytes
        levels = ops.convert(ops.constant(convolution.weight.numpy(), np.int8), "f32")
        weight = ops.multiply(levels, ops.constant(convolution.scale.numpy()))
        output = _convolved(ops, ops.pad(rounded, BORDER, BORDER, "reflect"), weight)
        node = _finished(ops, output, convolution.bias, layer)
    return import_openvino().Model([node], [entry])


def plain_graph(layers: Sequence[Layer]) -> Any:
    """Return a model of layers as they are, up-sampling as in `kernels`: (B, C, H, W) of any size in and out."""
    ops = import_openvino().opset13
    entry = node = _entry(ops, layers)
    for layer in layers:
        convolution = layer.convolution
        if layer.resampling == "upsample":
            output = _upsampled(ops, node, UpsampledConvolution(convolution))
        else:
            weight = ops.constant(convolution.weight.detach().numpy())
            output = _convolved(ops, ops.pad(_resampled(ops, node, layer), BORDER, BORDER, "reflect"), weight)
        node = _finished(ops, output, cast("Tensor", convolution.bias).detach(), layer)
    return import_openvino().Model([node], [entry])


def _entry(ops: Any, layers: Sequence[Layer]) -> Any:
    return ops.parameter([-1, layers[0].convolution.in_channels, -1, -1], np.float32)


def _resampled(ops: Any, node: Any, layer: Layer) -> Any:
    if layer.resampling == "pool":
        return ops.max_pool(node, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    if layer.resampling == "upsample":
        factors, axes = np.full(2, 2.0, np.float32), np.array([2, 3])
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return ops.interpolate(node, factors, "nearest", "scales", axes=axes, **modes)
    return node


def _convolved(ops: Any, padded: Any, weight: Any) -> Any:
    return ops.convolution(padded, weight, [1, 1], [0, 0], [0, 0], [1, 1])


def _upsampled(ops: Any, node: Any, convolution: UpsampledConvolution) -> Any:
    """Up-sample by 2 and convolve, by a convolution for each parity of row and column."""
    padded = ops.pad(node, BORDER, BORDER, "edge")
    parities = []
    for parity, filters in enumerate(convolution.filters.chunk(4)):
        first = np.array(divmod(parity, 2))
        seen = ops.slice(padded, first, np.where(first, END, -1), np.array([1, 1]), np.array([2, 3]))
        parities.append(_convolved(ops, seen, ops.constant(filters.numpy())))
    return ops.depth_to_space(ops.concat(parities, 1), "blocks_first", 2)


def _finished(ops: Any, output: Any, bias: Tensor, layer: Layer) -> Any:
    biased = ops.add(output, ops.constant(bias.numpy().reshape(1, -1, 1, 1)))
    return ops.relu(biased) if layer.rectified else biased
