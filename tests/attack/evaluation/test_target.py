import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attack.evaluation.target import open_model
from stylize.console import InputError

Maker = Callable[..., Path]


class Mean(nn.Module):
    """Logits that are the channels' means; `wrong` spoils them."""

    def __init__(self, wrong: str = "", class_names: object = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.dropout = nn.Dropout()
        self.wrong = wrong
        if class_names is not None:
            self.class_names = class_names

    def forward(self, images: Tensor) -> object:
        logits = self.scale * images.mean((2, 3))
        match self.wrong:
            case "tuple":
                return logits, logits
            case "two":
                return logits[:, :2]
            case "fails":
                raise RuntimeError("size mismatch\nand a long explanation")
        return logits


def test_a_model_file(make_shard_folder: Maker, make_model: Maker) -> None:
    shards = make_shard_folder()
    path = make_model(shards, method="pairing")
    for name in (path, str(path)):
        opened = open_model(name, shards)
        assert (opened.card.method, opened.reference) == ("pairing", path.as_posix())
        assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_any_network_from_python(make_shard_folder: Maker) -> None:
    network = Mean().train()
    shards = make_shard_folder(size=20)
    opened = open_model(network, shards)
    assert opened.network is network
    assert not any(module.training for module in network.modules())
    assert network.scale.requires_grad  # it is theirs, and may go on training
    assert (opened.card.image_size, opened.card.image_preset) == (20, "small")
    assert opened.card.class_names == ["class0", "class1", "class2"]
    assert opened.sha256 == open_model(Mean(), shards).sha256
    with torch.no_grad():
        network.scale.add_(1)
    assert opened.sha256 != open_model(network, shards).sha256


def test_images_of_many_sizes_come_in_the_paper_s(make_shard_folder: Maker) -> None:
    card = open_model(Mean(), make_shard_folder(size=None)).card
    assert (card.image_size, card.image_preset) == (224, "paper")


def test_a_network_without_tensors(make_shard_folder: Maker) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert open_model(network, make_shard_folder()).device == torch.device("cpu")


def test_a_function(make_shard_folder: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    network = "nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten())"
    code = f"import torch\nfrom torch import nn\ndef mean():\n torch.manual_seed(0)\n return {network}\nother = mean\n"
    (tmp_path / "module_for_open_model.py").write_text(code)
    shards = make_shard_folder()
    opened = open_model("module_for_open_model:mean", shards)
    assert opened.sha256 == open_model("module_for_open_model:mean", shards).sha256
    assert opened.sha256 != open_model("module_for_open_model:other", shards).sha256
    (tmp_path / "module_for_open_model.py").write_text(f"{code}# mended")
    assert opened.sha256 != open_model("module_for_open_model:mean", shards).sha256
    assert (opened.card.arch, opened.card.method) == ("mean", "external")
    assert opened.reference == "module_for_open_model:mean"
    assert not any(parameter.requires_grad for parameter in opened.network.parameters())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Mean("tuple"), "Mean returns tuple: return the logits alone"),
        (Mean("two"), "Mean returns 1 × 2 numbers an image, not 3 logits"),
        (Mean("fails"), r"fails on images of shape 1 × 3 × 16 × 16 \(size mismatch\)"),
        (Mean(class_names=["class0", "class2", "class1"]), "Class 1 is 'class2' in Mean but 'class1'"),
        (Mean(class_names=["class0"]), "knows 1 classes"),
        (Mean(class_names="class0"), "no list of names"),
        ("no/such/model.safetensors", "does not exist"),
        ("no_such_module:function", "No module named"),
    ],
)
def test_what_cannot_be_attacked(make_shard_folder: Maker, network: nn.Module | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_model(network, make_shard_folder())
