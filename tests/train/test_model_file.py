import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stylize.console import InputError
from train import ModelCard, build_model, load_model, read_card, save_model, trust

CARD = ModelCard(
    arch="mobilenet_v3_small",
    method="pairing",
    class_names=["cat", "dög", "fish"],
    image_size=32,
    image_preset="small",
    seed=3,
    shards_sha256="00ff",
    versions={"torch": "x"},
    config={"learning_rate": 1e-3},
)


def _saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_model(path, build_model(CARD.arch, 3).to(memory_format=torch.channels_last), CARD)
    return path


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "resnet18", "googlenet"])
def test_round_trip(tmp_path: Path, arch: str) -> None:
    card = replace(CARD, arch=arch)
    model = build_model(arch, 3)
    model(torch.rand(4, 3, 64, 64))  # moves the running statistics away from their initial values
    save_model(tmp_path / "new folder" / "model.safetensors", model, card)
    generator_state = torch.get_rng_state()
    loaded, loaded_card = load_model(tmp_path / "new folder" / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert loaded_card == card == read_card(tmp_path / "new folder" / "model.safetensors")
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), model.to(memory_format=torch.channels_last).eval()(images))


def test_same_model_same_bytes_and_nothing_else_left(tmp_path: Path) -> None:
    first = _saved(tmp_path).read_bytes()
    assert _saved(tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def _rewritten(**changes: object) -> Callable[[Path], None]:
    """Change the document in the metadata; keep the tensors."""

    def change(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            document = json.loads(file.metadata()["model"])
        document["card"].update({name: value for name, value in changes.items() if name in document["card"]})
        document.update({name: value for name, value in changes.items() if name not in document["card"]})
        save_file(load_file(path), path, {"model": json.dumps(document)})

    return change


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[-1000] ^= 1
    path.write_bytes(payload)


def _drop_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def _pickle(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "not a whole safetensors file"),
        (_pickle, "not a whole safetensors file"),
        (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
        (_flip_a_bit, "differ from their checksum"),
        (_drop_metadata, "not a model of this program"),
        (_rewritten(format_version=2), "version 2; this program reads"),
        (_rewritten(format="other"), "has the format 'other'"),
        (_rewritten(card={"arch": "resnet18"}), "damaged model card"),
        (_rewritten(arch="resnet18"), "does not hold a resnet18"),
        (_rewritten(arch="vgg61"), "Unknown architecture 'vgg61'"),
        (_rewritten(class_names=["one", "two"]), "does not hold a mobilenet_v3_small of 2 classes"),
        (lambda path: path.unlink(), "does not exist"),
    ],
)
def test_damaged_model(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = _saved(tmp_path)
    damage(path)
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_model(tmp_path / "file" / "model.safetensors", build_model("resnet18", 3), CARD)


OWN = """
from torch import nn
open("imported", "w").close()
class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, classes)
        self.two.weight, self.body = self.one.weight, nn.Sequential(self.one)
    def forward(self, x):
        return self.head(self.two(self.body(x)).mean((2, 3)))
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the name of a network of the user's own whose layers share tensors; it lies where Python finds modules."""
    (tmp_path / "somewhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "somewhere")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "somewhere" / "my_networks.py").write_text(OWN)
    monkeypatch.setattr("train.models._trusted", set())
    yield "my_networks:Tied"
    sys.modules.pop("my_networks", None)


def test_a_file_does_not_choose_what_code_runs(own_module: str) -> None:
    _rewritten(arch=own_module)(_saved(Path()))
    with pytest.raises(InputError, match=f"--trust {own_module}"):
        load_model(Path("model.safetensors"))
    trust("my_networks:Other")
    with pytest.raises(InputError, match=f"--trust {own_module}"):
        load_model(Path("model.safetensors"))
    assert not Path("imported").exists()
    with pytest.raises(InputError, match="my_networks"):
        trust("my_networks")
    trust(own_module)
    with pytest.raises(InputError, match="does not hold"):
        load_model(Path("model.safetensors"))
    assert Path("imported").exists()


def test_tensors_that_layers_share_come_back(own_module: str) -> None:
    trust(own_module)
    model = build_model(own_module, 3)
    save_model(Path("model.safetensors"), model, replace(CARD, arch=own_module))
    loaded, _ = load_model(Path())  # the folder that holds it
    assert loaded.get_parameter("network.two.weight") is loaded.get_parameter("network.body.0.weight")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(images), model.to(memory_format=torch.channels_last).eval()(images))
