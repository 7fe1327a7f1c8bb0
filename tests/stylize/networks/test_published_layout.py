"""The oracle is the published `nn.Sequential`, written here from its description, run by PyTorch alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stylize.console import InputError
from stylize.networks.adain import AdaINNetwork, Decoder, Encoder
from stylize.networks.exchange import (
    decoder_from_published,
    decoder_to_published,
    encoder_from_published,
    encoder_to_published,
)

PATH = Path("weights.pth")


def convolution(first: int, last: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d((1, 1, 1, 1)), nn.Conv2d(first, last, (3, 3)), nn.ReLU()]


def published_vgg() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 3, (1, 1))]
    channels = 3
    for block, (width, count) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
        if block:
            layers.append(nn.MaxPool2d((2, 2), (2, 2), (0, 0), ceil_mode=True))
        for _ in range(count):
            layers += convolution(channels, width)
            channels = width
    return nn.Sequential(*layers).requires_grad_(False)


def published_decoder() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 512
    for width in (256, 0, 256, 256, 256, 128, 0, 128, 64, 0, 64, 3):
        if width:
            layers += convolution(channels, width)
            channels = width
        else:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def align(content: Tensor, style: Tensor) -> Tensor:
    """AdaIN in NumPy, float64, with biased variances."""
    x, y = content.double().numpy(), style.double().numpy()
    scale = np.sqrt((y.var((2, 3), keepdims=True) + 1e-5) / (x.var((2, 3), keepdims=True) + 1e-5))
    aligned = (x - x.mean((2, 3), keepdims=True)) * scale + y.mean((2, 3), keepdims=True)
    return torch.from_numpy(aligned).float()


def test_the_export_gives_the_same_picture_in_the_published_networks(encoder: Encoder, decoder: Decoder) -> None:
    vgg, mirror = published_vgg(), published_decoder()
    vgg.load_state_dict(encoder_to_published(encoder), strict=True)
    mirror.load_state_dict(decoder_to_published(decoder), strict=True)
    cut = nn.Sequential(*list(vgg.children())[:31])
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(1, 3, 24, 32, generator=generator)
    style = torch.rand(1, 3, 40, 16, generator=generator)
    expected = mirror(align(cut(content), cut(style))).clamp(0, 1)
    network = AdaINNetwork(encoder, decoder)
    found = network(content, *network.style_statistics(style))
    assert float(found.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(vgg(content).abs().max()) == 0  # relu5_4: what lies beyond relu4_1 is zero


def test_the_import_folds_the_preprocessing_exactly_also_at_the_border() -> None:
    torch.manual_seed(0)
    vgg = published_vgg()
    preprocessing = vgg[0]
    assert isinstance(preprocessing, nn.Conv2d)
    assert preprocessing.bias is not None
    preprocessing.weight.data = torch.tensor([[2.0, 1, 255], [0, 255, 3], [255, 0, 1]])[:, :, None, None]
    preprocessing.bias.data = torch.tensor([-103.9, -116.8, -123.7])
    encoder = encoder_from_published(vgg.state_dict(), PATH)
    pixels = torch.rand(1, 3, 16, 24)
    expected = dict(enumerate(_outputs(vgg, pixels)))
    for features, index in zip(encoder.layers(pixels), (3, 6, 10, 13, 17, 20, 23, 26, 30), strict=True):
        scale = float(expected[index].abs().max())
        torch.testing.assert_close(features, expected[index], rtol=1e-4, atol=1e-4 * scale)


def _outputs(network: nn.Sequential, pixels: Tensor) -> list[Tensor]:
    outputs = []
    for layer in list(network)[:31]:
        pixels = layer(pixels)
        outputs.append(pixels)
    return outputs


def test_the_imported_decoder_is_the_published_one() -> None:
    torch.manual_seed(0)
    mirror = published_decoder()
    decoder = decoder_from_published(mirror.state_dict(), PATH)
    features = torch.rand(1, 512, 3, 2)
    torch.testing.assert_close(decoder(features), mirror(features), rtol=1e-4, atol=1e-5)


def test_export_and_import_give_the_same_bits(encoder: Encoder, decoder: Decoder) -> None:
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (encoder, encoder_from_published(encoder_to_published(encoder), PATH)),
        (decoder, decoder_from_published(decoder_to_published(decoder), PATH)),
    ]
    for original, back in pairs:
        for one, other in zip(original.state_dict().values(), back.state_dict().values(), strict=True):
            assert torch.equal(one.view(torch.int32), other.view(torch.int32))


def test_the_wrong_network_is_refused(encoder: Encoder, decoder: Decoder) -> None:
    with pytest.raises(InputError, match=r"weights\.pth has no tensor 0\.weight"):
        encoder_from_published(decoder_to_published(decoder), PATH)
    with pytest.raises(InputError, match=r"weights\.pth has no tensor 1\.weight"):
        decoder_from_published(encoder_to_published(encoder), PATH)
