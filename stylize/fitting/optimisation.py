"""The updates of a decoder's weights: two optimisers and a running average, at rates that are tensors on its device."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from stylize.fitting.muon import Muon
from stylize.fitting.settings import FitSettings
from stylize.networks.adain import Decoder

BETAS = (0.9, 0.99)


class Optimisation:
    """Muon moves a decoder's 4-D weights, as matrices; Adam its biases and last layer. `averaged` follows them.

    Rates are tensors, because a recorded update (`recorded.py`) reads them anew each time.
    """

    def __init__(self, decoder: Decoder, settings: FitSettings, dtype: torch.dtype) -> None:
        self.decoder = decoder
        self.settings = settings
        self.averaged = copy.deepcopy(decoder)
        *hidden, last = decoder.convolutions
        self.matrices = [(layer.weight, nn.Parameter(layer.weight.data.flatten(1))) for layer in hidden]
        device = last.weight.device
        self.moved = torch.ones((), device=device)  # the share of the way to the new weights that the average goes
        self.rates = [torch.tensor(rate, device=device) for rate in (settings.muon_rate, settings.learning_rate)]
        rest = [*(cast("Tensor", layer.bias) for layer in hidden), *last.parameters()]
        self.optimisers: Sequence[torch.optim.Optimizer] = (
            Muon([matrix for _, matrix in self.matrices], self.rates[0], dtype),
            torch.optim.Adam(rest, self.rates[1], BETAS, foreach=False, capturable=device.type == "cuda"),
        )

    def set_step(self, step: int) -> None:
        """Set the rates for the updates of a step."""
        factor = self.settings.rate_factor(step)
        for rate, base in zip(self.rates, (self.settings.muon_rate, self.settings.learning_rate), strict=True):
            rate.fill_(base * factor)
        self.moved.fill_(1 - min(self.settings.averaging, step / (step + 10)))

    def descend(self, loss: Tensor) -> None:
        """Update the weights once by the gradient of a loss, and their average."""
        self.decoder.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for weight, matrix in self.matrices:
            matrix.grad = cast("Tensor", weight.grad).flatten(1)
        for optimiser in self.optimisers:
            optimiser.step()
        for mean, parameter in zip(self.averaged.parameters(), self.decoder.parameters(), strict=True):
            mean.data.lerp_(parameter.data, self.moved)

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs."""
        return {
            "decoder": self.decoder.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.decoder.load_state_dict(state["decoder"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved, rate in zip(self.optimisers, state["optimisers"], self.rates, strict=True):
            optimiser.load_state_dict(saved)
            for group in optimiser.param_groups:
                group["lr"] = rate
