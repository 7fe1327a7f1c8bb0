"""A training step recorded on a GPU and replayed: launching its kernels one by one takes longer than they run."""

from collections.abc import Callable

import torch
from torch import Tensor

CALLS_BEFORE = 3  # so that every library has chosen its kernels and the optimisers have their state


class Recorded:
    """A function of a batch on a device, whose kernels are recorded on a GPU after some calls; elsewhere just called.

    Batches must have the same shapes, and everything else that the function reads or changes must stay where it is.
    Results are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], device: torch.device) -> None:
        self.function = function
        self.device = device
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.results: dict[str, Tensor] = {}

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        """Return the function's results for a batch, from any device."""
        if self.device.type != "cuda":
            return self.function(*batch)
        self._copy(batch)
        self.calls += 1
        if self.calls <= CALLS_BEFORE:
            return self._called()
        self.graph = self.graph or self._record()
        self.graph.replay()
        return self.results

    def _copy(self, batch: tuple[Tensor, ...]) -> None:
        self.inputs = self.inputs or [torch.empty_like(given, device=self.device) for given in batch]
        for mine, given in zip(self.inputs, batch, strict=True):
            mine.copy_(given, non_blocking=True)

    def _called(self) -> dict[str, Tensor]:
        """Call the function in a stream of its own, as recording will."""
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            results = self.function(*self.inputs)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return results

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.results = self.function(*self.inputs)
        return graph
