"""The oracle is torchvision's own VGG-19, with reflection padding, on pictures normalised as torchvision says."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms.functional import normalize

from stylize.console import InputError
from stylize.files import read_weights
from stylize.networks.exchange import import_weights
from stylize.networks.weights import encoder_from_torchvision, is_torchvision, load_encoder, torchvision_file

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalise on two pictures: the built-in ones take seconds."""
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(1, 3, 24, 24, generator=generator, dtype=torch.float64) for _ in range(2)]
    monkeypatch.setattr("stylize.networks.weights.built_in_pictures", lambda: pictures)


@pytest.fixture(scope="module")
def features() -> nn.Sequential:
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
def state(features: nn.Sequential) -> dict[str, Tensor]:
    classifier = {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}
    return {f"features.{name}": tensor for name, tensor in features.state_dict().items()} | classifier


@pytest.fixture
def cached(tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save the state dict under a name with its SHA-256, and make its URL torchvision's; return where it would go."""
    served = tmp_path / "served.pth"
    torch.save(state, served)
    named = served.rename(tmp_path / f"vgg19-{hashlib.sha256(served.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setattr("stylize.networks.weights.weights_url", named.as_uri)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    return tmp_path / "cache/hub/checkpoints" / named.name


def test_features_are_torchvisions_up_to_the_channels_scales(features: nn.Sequential, state: dict[str, Tensor]) -> None:
    assert is_torchvision(state)
    encoder = encoder_from_torchvision(state, Path("vgg19.pth"))
    pixels = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    expected = features(normalize(pixels, MEAN, STD))
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


def test_another_vgg_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(
        {"features.0.weight": state["features.0.weight"], "features.0.bias": torch.zeros(32)}, tmp_path / "o.pth"
    )
    with pytest.raises(InputError, match=r"o\.pth has features\.0\.bias as \(32,\)"):
        encoder_from_torchvision(read_weights(tmp_path / "o.pth"), tmp_path / "o.pth")
