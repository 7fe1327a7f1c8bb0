"""Weights from the package, files and torchvision; the oracle is torchvision's own VGG-19 with reflection padding."""

import copy
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.signal import correlate
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms.functional import normalize

from stylize.console import InputError
from stylize.files import read_weights
from stylize.networks.adain import Decoder, Encoder
from stylize.networks.weights import (
    CAFFE_MEAN_BGR,
    SHIPPED_SHA256,
    built_in_pictures,
    caffe_convolutions,
    default_decoder_file,
    embedded_encoder,
    encoder_from_torchvision,
    import_weights,
    load_decoder,
    load_encoder,
    measure_mean_activations,
    normalise,
    read_recipe,
    rescale,
    save_decoder,
    take_convolutions,
    torchvision_file,
    unnormalised_encoder,
)

ENCODER_SHA256 = "ab" * 32
PATH = Path("weights.pth")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


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


def pictures(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 16, 24, generator=generator, dtype=torch.float64) for _ in range(count)]


def means(encoder: Encoder, layer: int) -> NDArray[np.float64]:
    double = copy.deepcopy(encoder).double()
    maps = [list(double.layers(pixels))[layer].numpy() for pixels in pictures()]
    found: NDArray[np.float64] = np.concatenate(maps).mean((0, 2, 3))
    return found


def test_mean_activations_are_one_unless_they_are_a_tenth_of_the_layers(encoder: Encoder) -> None:
    normalised = copy.deepcopy(encoder)
    normalise(normalised, pictures())
    for layer in range(9):
        before, after = means(encoder, layer), means(normalised, layer)
        expected = np.minimum(1, before / (0.1 * before.mean()))
        np.testing.assert_allclose(after, expected, rtol=6e-3)


def test_a_channel_that_never_fires_is_scaled_by_a_tenth_of_the_layers_mean(encoder: Encoder) -> None:
    silent = copy.deepcopy(encoder)
    assert isinstance(silent.convolutions[0].bias, torch.Tensor)
    silent.convolutions[0].bias.data[5] = -1000
    normalised = copy.deepcopy(silent)
    normalise(normalised, pictures())
    ratio = silent.convolutions[0].weight[5] / normalised.convolutions[0].weight[5]
    assert np.allclose(ratio, 0.1 * means(silent, 0).mean(), rtol=6e-3)


def test_means_are_rounded_to_three_digits(encoder: Encoder) -> None:
    """Only so do machines that add in different orders get the same weights."""
    normalised = copy.deepcopy(encoder)
    normalise(normalised, pictures())
    measured = means(encoder, 0)
    expected = [float(f"{max(mean, 0.1 * measured.mean()):.3g}") for mean in measured]
    factors = torch.tensor(expected)[:, None, None, None]
    assert torch.equal(normalised.convolutions[0].weight, encoder.convolutions[0].weight * (1 / factors))


def test_the_built_in_pictures_are_the_same_each_time_and_many() -> None:
    first, second = list(built_in_pictures()), list(built_in_pictures())
    assert len(first) == 19 + 40
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    whole = torch.cat(first)
    assert whole.dtype == torch.float64
    assert 0 <= float(whole.min()) < 0.1 < 0.9 < float(whole.max()) <= 1


def tensors(**changes: object) -> dict[str, object]:
    return {"2.weight": torch.full((4, 3, 3, 3), 0.5), "2.bias": torch.arange(4.0)} | changes


def take(state: dict[str, object]) -> list[tuple[Tensor, Tensor]]:
    return take_convolutions(state, ["2"], [(3, 4)], PATH)


def test_half_and_double_precision_become_single() -> None:
    for dtype in (torch.float16, torch.float64):
        ((weight, bias),) = take(tensors(**{"2.weight": torch.full((4, 3, 3, 3), 0.5, dtype=dtype)}))
        assert weight.dtype == bias.dtype == torch.float32
        assert torch.equal(weight, torch.full((4, 3, 3, 3), 0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.bias": None}, r"weights\.pth has no tensor 2\.bias"),
        ({"2.weight": torch.ones(4, 4, 3, 3)}, r"has 2\.weight as \(4, 4, 3, 3\) of torch\.float32, not as"),
        ({"2.bias": torch.ones(5)}, r"has 2\.bias as \(5,\)"),
        ({"2.bias": torch.ones(4, dtype=torch.int64)}, r"has 2\.bias as \(4,\) of torch\.int64"),
        ({"2.bias": torch.ones(4).to_sparse()}, r"has 2\.bias as"),
        ({"2.bias": torch.ones(4, device="meta")}, r"has 2\.bias as"),
        ({"2.bias": torch.tensor([0, 0, 0, float("nan")])}, r"NaN or infinity in 2\.bias"),
        ({"2.weight": torch.full((4, 3, 3, 3), float("inf"))}, r"NaN or infinity in 2\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(tensors(**change))


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalise on two pictures: the built-in ones take seconds."""
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(1, 3, 24, 24, generator=generator, dtype=torch.float64) for _ in range(2)]
    monkeypatch.setattr("stylize.networks.weights.built_in_pictures", lambda: pictures)


@pytest.fixture(scope="module")
def vgg() -> nn.Sequential:
    """Return torchvision's `vgg19().features` up to relu4_1 with random weights and biases."""
    torch.manual_seed(0)
    network: nn.Sequential = make_layers(cfgs["E"], batch_norm=False)[:21]
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            layer.padding_mode = "reflect"
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            layer.bias.data.normal_(0, 0.3)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def vgg_state(vgg: nn.Sequential) -> dict[str, Tensor]:
    classifier = {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}
    return {f"features.{name}": tensor for name, tensor in vgg.state_dict().items()} | classifier


@pytest.fixture
def cached(tmp_path: Path, vgg_state: dict[str, Tensor], few_pictures: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve the weights under a name with their SHA-256 as torchvision's; return where they would be cached."""
    served = tmp_path / "served.pth"
    torch.save(vgg_state, served)
    named = served.rename(tmp_path / f"vgg19-{hashlib.sha256(served.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setattr("stylize.networks.weights.weights_url", named.as_uri)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    return tmp_path / "cache/hub/checkpoints" / named.name


@pytest.mark.usefixtures("few_pictures")
def test_features_are_torchvisions_up_to_the_channels_scales(vgg: nn.Sequential, vgg_state: dict[str, Tensor]) -> None:
    encoder = encoder_from_torchvision(vgg_state, Path("vgg19.pth"))
    pixels = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    expected = vgg(normalize(pixels, MEAN, STD))
    found = encoder(pixels)
    alive = (expected.mean((2, 3), keepdim=True) > 0.1 * expected.mean()).expand_as(expected)
    assert alive.float().mean() > 0.5
    profiles = [layer / layer.mean((2, 3), keepdim=True) for layer in (expected, found)]
    assert profiles[0][alive].std() > 0.3
    torch.testing.assert_close(profiles[1][alive], profiles[0][alive], rtol=1e-3, atol=1e-4)
    assert 0.5 < float(found.mean()) < 1.2
    assert abs(float(expected.mean().log2())) > 0.5


def test_the_name_and_the_imported_file_are_the_same_encoder(cached: Path, tmp_path: Path) -> None:
    loaded = load_encoder("vgg19-torchvision")
    assert torchvision_file() == cached
    for encoder, out in (("vgg19-torchvision", "named"), (str(cached), "file")):
        (path,) = import_weights(encoder, None, tmp_path / out)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == loaded.sha256 == load_encoder(str(path)).sha256
    with pytest.raises(InputError, match=r"decoder\.pth cannot belong to torchvision's VGG-19"):
        import_weights(str(cached), tmp_path / "decoder.pth", tmp_path / "named")


def test_a_damaged_download_is_named(cached: Path) -> None:
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"<html>")
    with pytest.raises(InputError, match="is damaged: delete it"):
        torchvision_file()


def test_a_download_that_is_not_torchvisions_leaves_nothing(cached: Path, tmp_path: Path) -> None:
    next(tmp_path.glob("vgg19-*.pth")).write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"cannot be downloaded \(invalid hash value"):
        torchvision_file()
    assert list(cached.parent.iterdir()) == []


def test_no_network_is_one_sentence(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:9/{cached.name}"  # the discard port: nobody listens
    monkeypatch.setattr("stylize.networks.weights.weights_url", lambda: url)
    with pytest.raises(InputError, match=rf"{url} cannot be downloaded .*: go online, or fetch it elsewhere"):
        load_encoder("vgg19-torchvision")
    assert list(cached.parent.iterdir()) == []


def test_another_vgg_is_refused(vgg_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(
        {"features.0.weight": vgg_state["features.0.weight"], "features.0.bias": torch.zeros(32)}, tmp_path / "o.pth"
    )
    with pytest.raises(InputError, match=r"o\.pth has features\.0\.bias as \(32,\)"):
        encoder_from_torchvision(read_weights(tmp_path / "o.pth"), tmp_path / "o.pth")
