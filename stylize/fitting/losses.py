"""The decoder's start and its losses: pixel L1, then content and style losses (Huang & Belongie 2017, eq. 11-13)."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stylize.networks.adain import Decoder, Encoder, adain
from stylize.networks.channels_last import channel_statistics

Statistics = tuple[Tensor, Tensor]  # mean and deviation, each (B, C, 1, 1)
# Added to the photo's own losses: where photo and style hardly differ, the ratio would be noise.
CONTENT_FLOOR, STYLE_FLOOR = 0.3, 2.0


@torch.no_grad()
def initialise_from_encoder(decoder: Decoder, encoder: Encoder, pixels: Tensor) -> None:
    """Start from the transposed, flipped encoder convolutions, rescaled on data to unit variance (LSUV).

    `pixels` (B, 3, H, W) in [0, 1] are natural images. The last layer is scaled to their own variance and mean.
    """
    for mine, theirs in zip(decoder.convolutions, reversed(encoder.convolutions), strict=True):
        mine.weight.copy_(theirs.weight.float().transpose(0, 1).flip(2, 3))
        nn.init.zeros_(cast("Tensor", mine.bias))
    features = encoder(pixels).float()
    for layer in decoder.convolutions:
        deviation = _layer_output(decoder, features, layer).std()
        layer.weight.div_(deviation)
    last = decoder.convolutions[-1]
    last.weight.mul_(pixels.float().std())
    cast("Tensor", last.bias).copy_(pixels.float().mean(dim=(0, 2, 3)) - decoder(features).mean(dim=(0, 2, 3)))


def _layer_output(decoder: Decoder, features: Tensor, layer: nn.Module) -> Tensor:
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.clone()))
    decoder(features)
    handle.remove()
    return outputs[0]


@dataclass(frozen=True)
class Targets:
    """What an output is compared with: AdaIN features, the style's statistics, and how far the photo is from both."""

    features: Tensor
    statistics: list[Statistics]
    content_scale: Tensor
    style_scale: Tensor


def statistics_of(layers: list[Tensor]) -> list[Statistics]:
    """Return the channel means and deviations of every layer."""
    return [channel_statistics(layer) for layer in layers]


def style_distance(found: list[Statistics], wanted: list[Statistics]) -> Tensor:
    """Return the style loss of every sample, (B,): mean squared errors of means and deviations, summed over layers."""
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
