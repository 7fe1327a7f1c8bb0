"""OpenVINO's graphs of the networks: int8 convolutions, or those of a trained network as they are."""

import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from stylize.engine.inference import UpsampledConvolution
from stylize.engine.quantisation import LEVELS, QuantisedConvolution
from stylize.errors import InputError
from stylize.networks.adain import Layer

INSTALL = 'pip install "stylized-pairing[openvino]"'
BORDER = np.array([0, 0, 1, 1])  # of (B, C, H, W), before and behind
END = np.iinfo(np.int64).max  # of an axis, to slice up to


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


def quantised_graph(layers: Sequence[Layer], quantised: Sequence[QuantisedConvolution]) -> Any:
    """Return a model of layers with quantised convolutions: float32 (B, C, H, W) of any size in and out."""
    ops = import_openvino().opset13
    entry = node = _entry(ops, layers)
    for layer, convolution in zip(layers, quantised, strict=True):
        # Resampled after the rounding, so that it moves bytes.
        rounded = _resampled(ops, _rounded(ops, node, convolution), layer)
        levels = ops.convert(ops.constant(convolution.weight.numpy(), np.int8), "f32")
        weight = ops.multiply(levels, ops.constant(convolution.scale.numpy()))
        output = _convolved(ops, ops.pad(rounded, BORDER, BORDER, "reflect"), weight)
        node = _finished(ops, output, convolution.bias, layer)
    return import_openvino().Model([node], [entry])


def plain_graph(layers: Sequence[Layer]) -> Any:
    """Return a model of layers as they are, up-sampling as in `inference`: (B, C, H, W) of any size in and out."""
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


def _rounded(ops: Any, node: Any, layer: QuantisedConvolution) -> Any:
    zero, one = (np.full((1, 1, 1, 1), end, np.float32) for end in (0, 1))
    return ops.fake_quantize(node, layer.low.numpy(), layer.high.numpy(), zero, one, LEVELS + 1)


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
