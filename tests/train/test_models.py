import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2 import functional

from stylize.console import InputError
from stylize.console.references import is_reference
from train import build_model
from train.models import call_reference, check_model, make_network

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# One of each kind of head and stem that torchvision has, and those of other packages; each is small or quickly made.
HEADS = {
    "resnet18": "fc",
    "googlenet": "fc",
    "mobilenet_v3_small": "classifier.3",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "regnet_y_400mf": "fc",
    "timm/resnet10t": "fc",
    "efficientnet_lite0": "_fc",
    "small": "head",
}


def _images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", ["resnet34", "mobilenet_v3_small"])
def test_equals_torchvision_on_normalised_input(arch: str) -> None:
    model = build_model(arch, 7).eval()
    peer = getattr(torchvision.models, arch)(num_classes=7).eval()
    peer.load_state_dict(model.get_submodule("network").state_dict())
    with torch.no_grad():
        expected = peer(functional.normalize(_images(), IMAGENET_MEAN, IMAGENET_STD))
        logits = model(_images())
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_googlenet_sees_what_its_published_weights_saw() -> None:
    peer = torchvision.models.googlenet(num_classes=7, transform_input=True, aux_logits=False, init_weights=False)
    seen = peer._transform_input(functional.normalize(_images(), IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(build_model("googlenet", 7).get_submodule("normalise")(_images()), seen)


def test_a_densenet_with_its_published_names(tmp_path: Path) -> None:
    state = torchvision.models.densenet121(num_classes=9).state_dict()
    part = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    old = {part.sub(r"\1.\2", name): tensor for name, tensor in state.items() if "num_batches" not in name}
    torch.save(old, tmp_path / "a.pth")
    model = build_model("densenet121", 4, str(tmp_path / "a.pth"))
    name = "features.denseblock1.denselayer2.conv1.weight"
    assert torch.equal(model.get_parameter(f"network.{name}"), state[name])


@pytest.mark.parametrize(("arch", "head"), HEADS.items())
def test_architectures_give_logits_and_a_new_head(arch: str, head: str) -> None:
    model = build_model(arch, 5)
    layer = model.get_submodule(f"network.{head}")
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.weight.shape[0] == 5
    assert head in make_network(arch, 5).heads
    check_model(model, arch, 64, 5)
    assert model.training  # as it was


@pytest.mark.slow
def test_every_classifier_of_torchvision_has_one_head() -> None:
    large = ("vit_h_14", "regnet_y_128gf")  # take seconds to make
    for arch in torchvision.models.list_models(module=torchvision.models):
        if arch not in large and "_32gf" not in arch and "vgg" not in arch:
            with torch.device("meta"):
                try:
                    network = make_network(arch, 3)
                except NotImplementedError:  # RegNet computes with its weights while it is made
                    continue
            head = network.module.get_submodule(network.heads[0])
            assert isinstance(head, nn.Linear | nn.Conv2d)
            assert head.weight.shape[0] == 3
            assert network.mean in ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))


def test_a_small_stem_looks_at_every_pixel() -> None:
    for arch in ("resnet18", "mobilenet_v3_small", "timm/resnet10t", "efficientnet_lite0"):
        sizes: list[torch.Size] = []
        model = build_model(arch, 3, stem="small")
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        first.register_forward_hook(lambda layer, inputs, output, sizes=sizes: sizes.append(output.shape))
        model.eval()(_images()[:, :, :32, :32])
        assert sizes[0][-2:] == (32, 32)
    assert isinstance(build_model("resnet18", 3, stem="small").get_submodule("network.maxpool"), nn.Identity)
    with pytest.raises(InputError, match="vit_b_16 has no small stem"):
        build_model("vit_b_16", 3, stem="small")


def test_a_network_that_does_not_take_the_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"vit_b_32 fails on images of 64 px \(Wrong image height"):
        check_model(build_model("vit_b_32", 3), "vit_b_32", 64, 3)
    with pytest.raises(InputError, match="own:flatten has no parameter"):
        check_model(nn.Flatten(), "own:flatten", 64, 3)
    with pytest.raises(InputError, match=r"own:flatten makes \(2, 12288\) of 2 images, not logits of 3 classes"):
        check_model(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), "own:flatten", 64, 3)


def test_the_weights_of_efficientnet_lite0_come_with_its_package() -> None:
    source = make_network("efficientnet_lite0", 10).imagenet
    assert source is not None
    model = build_model("efficientnet_lite0", 10, "imagenet")
    assert torch.equal(model.get_parameter("network._conv_stem.weight"), source()["_conv_stem.weight"])


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


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_weights_in_the_usual_wrappers(tmp_path: Path, wrapper: str) -> None:
    state = build_model("mobilenet_v3_small", 9).get_submodule("network").state_dict()
    torch.save({"epoch": 3, wrapper: {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "a.pth")
    model = build_model("mobilenet_v3_small", 4, str(tmp_path / "a.pth"))
    assert torch.equal(model.get_parameter("network.features.0.0.weight"), state["features.0.0.weight"])


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
            torch.save({"epoch": 3, **state}, path)
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
    with pytest.raises(InputError, match=r"'resnet43' \(did you mean resnet34 or"):
        build_model("resnet43", 3)
    with pytest.raises(InputError, match="timm has no model 'resnet43'"):
        build_model("timm/resnet43", 3)
    with pytest.raises(InputError, match="There are no ImageNet weights of small"):
        build_model("small", 3, "imagenet")
    with pytest.raises(InputError, match="two classes or more apart, the shards have"):
        build_model("resnet18", 0)


CODE = """
import torch
from torch import nn
class HeadFirst(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head, self.stem, self.body = nn.Linear(4, classes), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))
def headless(classes): return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten())
def inference(classes):
    with torch.inference_mode():
        network = HeadFirst(classes)
        network.body.bias = network.stem.bias
        return network
def network(): return nn.Flatten()
def numbers(): return [1, 2]
def breaks(): return [][0]
def needs(): import a_package_that_nobody_has
def options(classes): return nn.Flatten()
def lazy(): return nn.LazyLinear(3)
answer = 42
"""
OWN = "own_module_of_a_user"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package.module:function", True),
        ("module:function", True),
        ("runs/pairing/model.safetensors", False),
        ("runs/a:b/model.safetensors", False),
        ("C:\\models\\a.safetensors", False),
        ("module:", False),
        (":function", False),
        ("module:function()", False),
        ("module:os:system", False),
    ],
)
def test_what_is_a_reference(name: str, expected: bool) -> None:
    assert is_reference(name) is expected


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model:best").write_bytes(b"")
    assert not is_reference("model:best")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # restores the path afterwards
    Path("own_module_of_a_user.py").write_text(CODE)
    return "own_module_of_a_user"


def test_a_module_in_the_working_folder(own_module: str) -> None:
    assert isinstance(call_reference(f"{own_module}:network"), nn.Flatten)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package.models:network", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("own_module_of_a_user:netwrok", "has no function 'netwrok'"),
        ("own_module_of_a_user:answer", "has no function 'answer'"),
        ("own_module_of_a_user:numbers", "returned list: return a torch.nn.Module"),
        ("own_module_of_a_user:breaks", r"IndexError: list index out of range, .*own_module_of_a_user\.py:\d+"),
        ("own_module_of_a_user:needs", "No module named 'a_package_that_nobody_has'"),
        ("own_module_of_a_user:lazy", "lazy layers"),
        ("own_module_of_a_user:options", "missing 1 required positional argument: 'classes'"),
    ],
)
def test_what_goes_wrong_is_one_sentence(own_module: str, reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call_reference(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [3, 5])
def test_a_head_defined_before_the_body_is_found(own_module: str, tmp_path: Path, classes: int) -> None:
    torch.manual_seed(5)
    source = build_model(f"{OWN}:HeadFirst", 3).get_submodule("network").state_dict()
    torch.save(source, tmp_path / "w.pth")
    torch.manual_seed(9)
    generator = torch.get_rng_state()
    made = build_model(f"{OWN}:HeadFirst", classes, str(tmp_path / "w.pth")).get_submodule("network").state_dict()
    torch.set_rng_state(generator)
    fresh = build_model(f"{OWN}:HeadFirst", classes).get_submodule("network").state_dict()
    for name, tensor in made.items():
        assert torch.equal(tensor, fresh[name] if name.startswith("head.") else source[name])


def test_an_unknown_head_is_refused(own_module: str, tmp_path: Path) -> None:
    torch.save(build_model(f"{OWN}:headless", 3).get_submodule("network").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"{OWN}:headless.*--weights scratch"):
        build_model(f"{OWN}:headless", 3, str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "wrapped",
    ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "_orig_mod.module.network.{}", "{}"],
)
def test_names_of_compiled_and_parallel_models(own_module: str, tmp_path: Path, wrapped: str) -> None:
    source = build_model(f"{OWN}:HeadFirst", 3).get_submodule("network").state_dict()
    names = {name: wrapped.format(name) for name in source}
    names["body.weight"] = wrapped.format("body._orig_mod.module.weight")  # a part compiled on its own
    torch.save({names[name]: tensor for name, tensor in source.items()}, tmp_path / "w.pth")
    made = build_model(f"{OWN}:HeadFirst", 3, str(tmp_path / "w.pth"))
    for name in ("stem.weight", "body.weight"):
        assert torch.equal(made.get_parameter(f"network.{name}"), source[name])


def test_parameters_made_in_inference_mode_learn(own_module: str) -> None:
    network = call_reference(f"{OWN}:inference", 3)
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.get_parameter("body.bias") is network.get_parameter("stem.bias")
