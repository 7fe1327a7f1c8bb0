import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2 import functional

from stylize.errors import InputError
from train import build_model
from train.models import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD

HEADS = {"resnet34": "fc", "googlenet": "fc", "mobilenet_v3_small": "classifier.3"}


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", HEADS)
def test_equals_torchvision_on_normalised_input(arch: str) -> None:
    model = build_model(arch, 7).eval()
    options = {"aux_logits": False, "init_weights": False} if arch == "googlenet" else {}
    if arch == "googlenet":
        options["transform_input"] = True  # what torchvision does for ImageNet-normalised input and published weights
    peer = getattr(torchvision.models, arch)(num_classes=7, **options).eval()
    peer.load_state_dict(model.get_submodule("network").state_dict())
    with torch.no_grad():
        expected = peer(functional.normalize(_images(), list(IMAGENET_MEAN), list(IMAGENET_STD)))
        logits = model(_images())
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_gives_logits_and_a_default_head(arch: str) -> None:
    model = build_model(arch, 5)
    head = model.get_submodule(f"network.{ARCHITECTURES[arch].head}")
    assert isinstance(head, nn.Linear)
    bound = head.in_features**-0.5  # PyTorch's default: uniform in ±1/sqrt(features)
    assert 0.9 * bound < head.weight.abs().max() <= bound
    logits = model.eval()(_images())
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_file_gives_the_body_and_a_new_head(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    source = build_model("mobilenet_v3_small", 9)
    state = (source if wrapped else source.get_submodule("network")).state_dict()
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    model = build_model("mobilenet_v3_small", 4, str(path))
    for name, tensor in model.get_submodule("network").state_dict().items():
        if not name.startswith("classifier.3."):
            assert torch.equal(tensor, source.get_submodule("network").state_dict()[name])
    assert model(_images()).shape == (2, 4)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _write_bad(kind: str, path: Path) -> None:
    state = build_model("mobilenet_v3_small", 3).get_submodule("network").state_dict()
    match kind:
        case "other architecture":
            torch.save(build_model("resnet18", 3).get_submodule("network").state_dict(), path)
        case "reshaped":
            torch.save({**state, "features.0.0.weight": torch.zeros(16, 3, 5, 5)}, path)
        case "incomplete":
            torch.save({name: state[name] for name in list(state)[5:]}, path)
        case "not a state dict":
            torch.save([1, 2], path)
        case "not only tensors":
            torch.save({"epoch": 3, "state_dict": state}, path)
        case "not a file of tensors":
            path.write_text("<html>404</html>")
        case "truncated":
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[:1000])
        case "hostile":
            torch.save({"weight": _Hostile(path.with_name("executed"))}, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("other architecture", "do not fit mobilenet_v3_small"),
        ("reshaped", "do not fit"),
        ("incomplete", "5 tensors missing or foreign"),
        ("not a state dict", "holds no state dict"),
        ("not only tensors", "are not a state dict"),
        ("not a file of tensors", r"cannot be read \(it is an HTML page"),
        ("truncated", "cannot be read"),
        ("hostile", r"cannot be read \(it is damaged, or holds more than plain tensors"),
        ("absent", "do not exist"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_bad_weights(tmp_path: Path, kind: str, message: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    _write_bad(kind, path)
    with pytest.raises(InputError, match=message):
        build_model("mobilenet_v3_small", 3, str(path))
    assert not (tmp_path / "executed").exists()


def test_unknown_architecture_and_no_class() -> None:
    with pytest.raises(InputError, match="'vgg16': choose one of resnet18"):
        build_model("vgg16", 3)
    with pytest.raises(InputError, match="two classes or more apart, the shards have"):
        build_model("resnet18", 0)
