"""The stylizer by OpenVINO, in int8 or bfloat16: encoder and decoder apart, the alignment between them in float32.

One graph for both destroys int8's picture: the alignment divides by deviations that int8 does not resolve.
"""

import copy
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.engine.calibration import quantise_pair
from stylize.engine.devices import best_dtype, sums_int8_exactly
from stylize.engine.openvino_graphs import import_openvino, plain_graph, quantised_graph
from stylize.errors import InputError
from stylize.networks.adain import Decoder, Encoder, Stylizer


def int8_stylizer(encoder: Encoder, decoder: Decoder, means: Tensor, deviations: Tensor) -> Stylizer:
    """Return the stylizer of a float32 pair in int8 on the CPU, calibrated for style statistics (S, 512, 1, 1).

    Raises `InputError` where OpenVINO is missing or the CPU does not multiply int8 exactly in hardware.
    """
    core = import_openvino().Core()
    if not sums_int8_exactly() or "INT8" not in _capabilities(core):
        raise InputError("This CPU does not multiply int8 exactly in hardware (VNNI or AMX): give --backend torch.")
    encoder_chain, decoder_chain = quantise_pair(encoder, decoder, means, deviations)
    first, *following = decoder.chain
    # What is not int8 stays float32: by default it would be bfloat16 where the CPU has that.
    return Stylizer(
        CompiledChain(core, quantised_graph(encoder.chain, encoder_chain), "f32"),
        MixedDecoder(first.convolution, CompiledChain(core, quantised_graph(following, decoder_chain), "f32")),
    )


def bfloat16_stylizer(encoder: Encoder, decoder: Decoder) -> Stylizer:
    """Return the stylizer of a float32 pair in bfloat16 on the CPU.

    Raises `InputError` where OpenVINO is missing or the CPU does not multiply bfloat16 in hardware.
    """
    core = import_openvino().Core()
    if "BF16" not in _capabilities(core):
        raise InputError("This CPU does not multiply bfloat16 in hardware: give --backend torch.")
    return Stylizer(*(CompiledChain(core, plain_graph(network.chain), "bf16") for network in (encoder, decoder)))


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
            self._compiled.model = self._compile()
        return torch.from_numpy(self._compiled.model([activations.contiguous().numpy()])[0].copy())

    def _compile(self) -> Any:
        # Without pinning, because pinned models of one thread each may share a core.
        options = {"INFERENCE_PRECISION_HINT": self._precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        options |= {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        return self._core.compile_model(self._graph, "CPU", options)
