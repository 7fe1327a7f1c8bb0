"""One forward pass, watched: the same random numbers each time, the number types inside, calls of autograd inside."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def same_numbers(images: Tensor, seed: int) -> Iterator[None]:
    """Let a random model draw the same numbers in each pass, without autocast, and put the random state back after."""
    kind = images.device.type
    devices = [images.device] if kind == "cuda" else []
    with torch.random.fork_rng(devices), torch.autocast(kind, enabled=False):
        torch.manual_seed(seed)
        yield


def logits_of(model: nn.Module, images: Tensor, seed: int) -> Tensor:
    """Return the logits (N, classes) of images (N, C, H, W), without gradients."""
    with same_numbers(images, seed), torch.no_grad():
        logits: Tensor = model(images)
    return logits


class _FloatingTypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the floating-point types of what every operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at its result."""
        result = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.seen |= {leaf.dtype for leaf in leaves if leaf.is_floating_point()}
        return result


def floating_types(model: nn.Module, images: Tensor) -> set[torch.dtype]:
    """Return the floating-point types that occur inside one forward pass."""
    types = _FloatingTypes()
    with types:
        logits_of(model, images, 0)
    return types.seen


def autograd_calls(model: nn.Module, images: Tensor) -> int:
    """Count the calls of `torch.autograd.grad` and `backward` inside one forward pass with gradients."""
    watched = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code in watched

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        with same_numbers(images, 0), torch.enable_grad():
            model(images.detach().clone().requires_grad_())
    finally:
        sys.setprofile(previous)
    return calls
