"""Floating-point operations counted while they happen."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of matrix products and convolutions, forward and backward, that run inside.

    PyTorch's `FlopCounterMode` fails where a method takes gradients of images.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[Any],
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation as it is, and count it."""
        result = function(*arguments, **(options or {}))
        count: Callable[..., int] | None = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.total += count(*arguments, **(options or {}), out_val=result)
        return result
