import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.signal import correlate

from stylize.console import InputError
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.weights import (
    CAFFE_MEAN_BGR,
    SHIPPED_SHA256,
    caffe_convolutions,
    default_decoder_file,
    embedded_encoder,
    load_decoder,
    measure_mean_activations,
    read_recipe,
    rescale,
    save_decoder,
    unnormalised_encoder,
)

ENCODER_SHA256 = "ab" * 32


class Hostile:
    """Unpickling it makes the folder `executed`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.fixture
def decoder_file(tmp_path: Path, decoder: Decoder) -> Path:
    path = tmp_path / "decoder.safetensors"
    save_decoder(path, decoder, ENCODER_SHA256, {"steps": 3})
    return path


def test_folding_the_preprocessing_changes_nothing_even_at_the_border() -> None:
    weight, bias = caffe_convolutions()[0]
    rgb = np.random.default_rng(0).random((3, 9, 7))
    caffe = rgb[::-1] * 255 - np.array(CAFFE_MEAN_BGR)[:, None, None]
    padded = np.pad(caffe, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    maps = [correlate(padded, filters, mode="valid")[0] for filters in weight.double().numpy()]
    expected = np.stack(maps) + bias.double().numpy()[:, None, None]
    layer = unnormalised_encoder().convolutions[0]
    found = layer(torch.from_numpy(rgb).float()[None])[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_rescaling_changes_only_the_scale_of_each_channel(encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, 16, 16, generator=generator)
    means = [torch.rand(layer.out_channels, generator=generator) + 0.5 for layer in encoder.convolutions]
    rescaled = copy.deepcopy(encoder)
    rescale(rescaled, means)
    for before, after, mean in zip(encoder.layers(pixels), rescaled.layers(pixels), means, strict=True):
        torch.testing.assert_close(after, before / mean[:, None, None], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_mean_activations_average_over_images_and_positions(encoder: Encoder) -> None:
    batches = [torch.rand(2, 3, 16, 24), torch.rand(2, 3, 16, 24)]
    found = measure_mean_activations(encoder, batches)
    layers = zip(*(encoder.layers(pixels) for pixels in batches), strict=True)
    for mean, activations in zip(found, layers, strict=True):
        values = np.concatenate([layer.double().numpy() for layer in activations])
        np.testing.assert_allclose(mean.numpy(), np.maximum(values.mean((0, 2, 3)), 1e-6), rtol=1e-5)


def test_embedded_encoder_is_vgg_normalised() -> None:
    """Simple pictures are not natural images; still the activations must lie near 1, not in the hundreds as VGG's."""
    waves = torch.sin(torch.arange(32) * torch.linspace(0.2, 1.5, 12)[:, None])
    pixels = 0.5 + 0.25 * (waves.view(4, 3, 32, 1) + waves.view(4, 3, 1, 32))
    original = measure_mean_activations(unnormalised_encoder(), [pixels])
    normalised = measure_mean_activations(embedded_encoder().network, [pixels])
    assert original[-1].mean() > 50
    assert all(0.1 < mean.mean() < 10 for mean in normalised)
    ratios = original[-1] / normalised[-1]
    stored = load_file(Path(__file__).parents[3] / "stylize/networks/shipped/vgg19_mean_activations.safetensors")
    used = original[-1] > 1
    torch.testing.assert_close(ratios[used], stored["block4_conv1"][used], rtol=1e-2, atol=0)


def test_decoder_round_trip_keeps_half_precision_and_the_recipe(decoder_file: Path, decoder: Decoder) -> None:
    loaded = load_decoder(decoder_file, ENCODER_SHA256)
    assert not loaded.training
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    assert read_recipe(decoder_file) == {"steps": 3}


def test_decoder_of_another_encoder_is_refused(decoder_file: Path) -> None:
    with pytest.raises(InputError, match="belongs to encoder abababababab, not to cdcdcdcdcdcd"):
        load_decoder(decoder_file, "cd" * 32)


def test_decoder_that_names_no_encoder_is_refused(tmp_path: Path, decoder: Decoder) -> None:
    save_file(decoder.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="belongs to encoder none"):
        load_decoder(tmp_path / "plain.safetensors", ENCODER_SHA256)


def test_damaged_decoder_files_are_refused_and_never_executed(
    decoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = decoder_file.read_bytes()
    hostile = tmp_path / "hostile.pth"
    torch.save({"weight": Hostile()}, hostile)
    files = {
        "truncated": whole[:-100],
        "header only": whole[:50],
        "empty": b"",
        "page": b"<html>not found</html>",
        "pickle": pickle.dumps(Hostile()),
        "torch": hostile.read_bytes(),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"{name} is not a decoder"):
            load_decoder(path, ENCODER_SHA256)
    assert not (tmp_path / "executed").exists()


def test_other_tensors_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", {"encoder_sha256": ENCODER_SHA256})
    torch.save({"weight": torch.zeros(3)}, tmp_path / "torch.pth")
    files = {
        "other.safetensors": "", "absent.safetensors": "No such file", ".": "it is a folder",
        "torch.pth": "it is a file of PyTorch, not safetensors",
    }  # fmt: skip
    for name, reason in files.items():
        with pytest.raises(InputError, match=rf"is not a decoder \(.*{reason}"):
            load_decoder(tmp_path / name, ENCODER_SHA256)


def test_a_damaged_shipped_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHIPPED_SHA256, "decoder.safetensors", "0" * 64)
    with pytest.raises(InputError, match="damaged: reinstall"):
        default_decoder_file()
