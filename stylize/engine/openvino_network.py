"""The stylizer in int8 by OpenVINO: encoder and decoder apart, the alignment between them in float32.

One graph for both destroys the picture: the alignment divides by deviations that int8 does not resolve.
"""

import copy
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.engine.calibration import quantise_pair
from stylize.engine.devices import best_dtype, sums_int8_exactly
from stylize.engine.quantisation import LEVELS, QuantisedConvolution
from stylize.errors import InputError
from stylize.networks.adain import Decoder, Encoder, Layer, Stylizer

INSTALL = 'pip install "stylized-pairing[openvino]"'


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


def openvino_stylizer(encoder: Encoder, decoder: Decoder, means: Tensor, deviations: Tensor) -> Stylizer:
    """Return the stylizer of a float32 pair in int8 on the CPU, calibrated for style statistics (S, 512, 1, 1).

    Raises `InputError` where OpenVINO is missing or the CPU does not multiply int8 exactly in hardware.
    """
    openvino = import_openvino()
    core = openvino.Core()
    if not sums_int8_exactly() or "INT8" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError("This CPU does not multiply int8 exactly in hardware (VNNI or AMX): give --backend torch.")
    encoder_chain, decoder_chain = quantise_pair(encoder, decoder, means, deviations)
    first, *following = decoder.chain
    return Stylizer(
        CompiledChain(core, encoder.chain, encoder_chain),
        MixedDecoder(first.convolution, CompiledChain(core, following, decoder_chain)),
    )


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
    """Layers with quantised convolutions, compiled for pictures of any size; float32 in, float32 out.

    Every Python thread has a compiled model of its own, with as many threads of the CPU as PyTorch has there.
    """

    def __init__(self, core: Any, layers: Sequence[Layer], quantised: Sequence[QuantisedConvolution]) -> None:
        super().__init__()
        self._core = core
        self._graph = _graph(layers, quantised)
        self._compiled = threading.local()

    def forward(self, activations: Tensor) -> Tensor:
        """Run the chain on (B, C, H, W)."""
        if not hasattr(self._compiled, "model"):
            self._compiled.model = self._compile()
        return torch.from_numpy(self._compiled.model([activations.contiguous().numpy()])[0].copy())

    def _compile(self) -> Any:
        # What is not int8 stays float32: by default it would be bfloat16 where the CPU has that. Without pinning,
        # because pinned models of one thread each may share a core.
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        options |= {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        return self._core.compile_model(self._graph, "CPU", options)


def _graph(layers: Sequence[Layer], quantised: Sequence[QuantisedConvolution]) -> Any:
    openvino = import_openvino()
    ops = openvino.opset13
    entry = ops.parameter([-1, quantised[0].weight.shape[1], -1, -1], np.float32)
    node = entry
    for layer, convolution in zip(layers, quantised, strict=True):
        # Resampled after the rounding, so that it moves bytes.
        node = _convolution(ops, _resampled(ops, _rounded(ops, node, convolution), layer), convolution)
        if layer.rectified:
            node = ops.relu(node)
    return openvino.Model([node], [entry])


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


def _convolution(ops: Any, node: Any, layer: QuantisedConvolution) -> Any:
    border = np.array([0, 0, 1, 1])
    levels = ops.convert(ops.constant(layer.weight.numpy(), np.int8), "f32")
    weight = ops.multiply(levels, ops.constant(layer.scale.numpy()))
    padded = ops.pad(node, border, border, "reflect")
    output = ops.convolution(padded, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.add(output, ops.constant(layer.bias.numpy().reshape(1, -1, 1, 1)))
