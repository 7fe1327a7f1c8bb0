"""Losses and optimisers of decoder training: content and style losses, Muon and Adam."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from stylize.fitting import FitSettings
from stylize.networks.adain import Decoder, Encoder, adain, channel_statistics

Statistics = tuple[Tensor, Tensor]  # mean and standard deviation, each (B, C, 1, 1)
# Added to the photo's own losses: where photo and style hardly differ, the ratio would be noise.
CONTENT_FLOOR, STYLE_FLOOR = 0.3, 2.0
BETAS = (0.9, 0.99)  # of Adam
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's quintic iteration
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix (M, N) with the same singular vectors and all singular values near 1 (Newton-Schulz)."""
    first, third, fifth = COEFFICIENTS
    wide = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return wide.T if matrix.size(0) > matrix.size(1) else wide


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose updates are orthogonalised in `dtype`; parameters are matrices.

    `torch.optim.Muon` makes the same updates, but in bfloat16 everywhere: where a CPU has no such instructions,
    one step takes minutes.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float | Tensor, dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": lr})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix by one update; tall ones by more, as in Jordan's original."""
        for group in self.param_groups:
            for matrix in group["params"]:
                gradient = cast("Tensor", matrix.grad)
                if matrix not in self.state:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = self.state[matrix]["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
                update = orthogonalise(gradient.lerp(momentum, MOMENTUM).to(self.dtype))
                rate = group["lr"] * max(1, matrix.size(0) / matrix.size(1)) ** 0.5
                matrix.sub_(update.to(matrix.dtype).mul_(rate))


class Optimisation:
    """Muon moves a decoder's 4-D weights, as matrices; Adam its biases and last layer. `averaged` follows them.

    Rates are tensors, because a recorded update (`decoder.Recorded`) reads them anew each time.
    """

    def __init__(self, decoder: Decoder, settings: FitSettings, dtype: torch.dtype) -> None:
        self.decoder, self.settings, self.averaged = decoder, settings, copy.deepcopy(decoder)
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


@torch.no_grad()
def initialise_from_encoder(decoder: Decoder, encoder: Encoder, pixels: Tensor) -> None:
    """Start from the transposed, flipped encoder convolutions, rescaled on data to unit variance (LSUV).

    `pixels` (B, 3, H, W) in [0, 1] are natural images. The last layer is scaled to their own variance and mean.
    """
    for mine, theirs in zip(decoder.convolutions, reversed(encoder.convolutions), strict=True):
        mine.weight.copy_(theirs.weight.float().transpose(0, 1).flip(2, 3))
        nn.init.zeros_(cast("Tensor", mine.bias))
    features = encoder(pixels).float()
    for layer in decoder.chain:
        layer.convolution.weight.div_(layer.convolution(layer.resample(features)).std())
        features = layer(features)
    last, std = decoder.convolutions[-1], pixels.float().std()
    last.weight.mul_(std)
    cast("Tensor", last.bias).copy_(pixels.float().mean(dim=(0, 2, 3)) - std * features.mean(dim=(0, 2, 3)))


@dataclass(frozen=True)
class Targets:
    """What an output is compared with: AdaIN features, the style's statistics, and how far the photo is from both."""

    features: Tensor
    statistics: list[Statistics]
    content_scale: Tensor
    style_scale: Tensor


def statistics_of(layers: list[Tensor]) -> list[Statistics]:
    """Return the channel means and standard deviations of every layer."""
    return [channel_statistics(layer) for layer in layers]


def style_distance(found: list[Statistics], wanted: list[Statistics]) -> Tensor:
    """Return every sample's style loss, (B,): squared errors of channel statistics, averaged, summed over layers."""
    pairs = [pair for layers in zip(found, wanted, strict=True) for pair in zip(*layers, strict=True)]
    return torch.stack([(first - second).square().mean(dim=(1, 2, 3)) for first, second in pairs]).sum(dim=0)


def content_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the content loss of every sample, (B,): the mean squared error of relu4_1 features."""
    return (found.float() - wanted.float()).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def style_targets(content: Tensor, own: list[Statistics], style: list[Statistics]) -> Targets:
    """Align the content's relu4_1 with the style's, and measure the photo, whose statistics are `own`, against both."""
    features = adain(content, *style[-1])
    return Targets(features, style, content_distance(content, features), style_distance(own, style))


def style_transfer_losses(encoder: Encoder, output: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Content loss against the AdaIN target and style loss over relu1_1 … relu4_1, each over that of the photo.

    Relative to the photo, because the losses of a saturated pattern are fifty times those of a muted painting.
    """
    layers = encoder.style_features(output)
    content = content_distance(layers[-1], targets.features) / (targets.content_scale + CONTENT_FLOOR)
    style = style_distance(statistics_of(layers), targets.statistics) / (targets.style_scale + STYLE_FLOOR)
    return {"content": content.mean(), "style": style.mean()}
