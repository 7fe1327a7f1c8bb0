"""The decoder's start and its losses: pixel L1, then content and style losses (Huang & Belongie 2017, eq. 11-13)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylize.networks import Decoder, Encoder, adain, channel_statistics


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
    handle = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    decoder(features)
    handle.remove()
    return outputs[0]


def reconstruction_loss(encoder: Encoder, decoder: Decoder, content: Tensor) -> dict[str, Tensor]:
    """Mean absolute error of the autoencoder's pixels."""
    with torch.no_grad():
        features = encoder(content)
    return {"reconstruction": F.l1_loss(decoder(features).float(), content)}


def style_transfer_losses(encoder: Encoder, decoder: Decoder, content: Tensor, style: Tensor) -> dict[str, Tensor]:
    """Content loss at relu4_1 against the AdaIN target, and style loss over relu1_1 … relu4_1.

    Content: mean squared error. Style: the sum over layers of the mean squared errors of channel means and deviations.
    """
    with torch.no_grad():
        target_statistics = [channel_statistics(layer) for layer in encoder.style_features(style)]
        target = adain(encoder(content), *target_statistics[-1])
    output = encoder.style_features(decoder(target))
    statistics = [channel_statistics(layer) for layer in output]
    style_loss = torch.stack(
        [
            F.mse_loss(found, wanted)
            for pair, wanted_pair in zip(statistics, target_statistics, strict=True)
            for found, wanted in zip(pair, wanted_pair, strict=True)
        ]
    ).sum()
    return {"content": F.mse_loss(output[-1].float(), target.float()), "style": style_loss}
