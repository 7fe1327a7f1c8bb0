"""What is evaluated: the model, opened, checked and asked for its answers, and the images that every model meets."""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attack.attacks import Averaged, misclassified, separate_copy
from stylize.console import PATIENCE, InputError, Show, option_name
from stylize.console.references import code_files, is_reference
from stylize.files import file_sha256, given_name
from stylize.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from train import ModelCard, TestImage, load_model, load_test_images
from train.augment import PAPER_SIZE
from train.dataset import PairedShards
from train.loading import process_context
from train.models import call_reference, copy_inference_tensors, model_file, tensors_sha256

NO_CLASS = -1
EXTERNAL = "external"  # the method of a model that this program did not train


@dataclass(frozen=True)
class ImageSet:
    """N test images in hash order: keys, float32 pixels (N, 3, H, W) in [0, 1] and int64 labels (N,)."""

    keys: tuple[str, ...]
    pixels: Tensor
    labels: Tensor

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels as 8-bit levels: what tells whether two evaluations were on the same images."""
        return hashlib.sha256(self.pixels.mul(255).round().byte().cpu().numpy().tobytes()).hexdigest()


def check_positive(**counts: int) -> None:
    """Raise `InputError` for the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{option_name(name)} is {count}: give 1 or more.")


def image_order(keys: Iterable[str], seed: int = 0) -> list[str]:
    """Sort keys by the SHA-256 of "seed:key": an order that depends on no model and not on the order of the keys."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())


def choose_images(shards: Path, images: int, seed: int) -> tuple[str, ...]:
    """Return the keys of a shard folder's first `images` test images in hash order, or of all where there are fewer."""
    keys = (str(key) for key in PairedShards(shards, "test").keys)
    return tuple(image_order(keys, seed)[:images])


def load_image_set(
    shards: Path, image_size: int, image_preset: str, keys: Sequence[str], device: str | torch.device = "cpu"
) -> ImageSet:
    """Return the images of these keys on a device, with the very pixels that `train` computes test accuracy on."""
    wanted = set(keys)
    found = {image.key: image for image in load_test_images(shards, image_size, image_preset) if image.key in wanted}
    pixels = torch.stack([found[key].pixels for key in keys])
    labels = torch.tensor([found[key].label for key in keys])
    return ImageSet(tuple(keys), pixels.to(device), labels.to(device))


@dataclass(frozen=True)
class Target:
    """A network in eval mode on the device to use, the shards whose test images it meets, and what a result says of it.

    It maps float32 pixels (B, 3, H, W) in [0, 1] to logits (B, classes). `reference` is how it was named; `sha256` is
    of the model's file or, where there is none, of its tensors, name and code. `untouched` is a copy that no image went
    through, None where the network cannot be copied or is opened again instead (`reopened`).
    """

    network: nn.Module
    card: ModelCard
    reference: str
    sha256: str
    shards: Path
    manifest: Manifest
    untouched: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU if it has no tensors."""
        return next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.card.class_names)

    @property
    def test_images(self) -> int:
        """Number of images in the test split."""
        return self.manifest.samples("test")

    @property
    def reopened(self) -> bool:
        """Whether the network is opened again instead of copied: code of the user's own may hold what copies share."""
        return is_reference(self.reference)

    @property
    def sees(self) -> tuple[int, str]:
        """The size of its images in pixels, and the preset that cuts them."""
        return self.card.image_size, self.card.image_preset

    @cached_property
    def document(self) -> dict[str, Any]:
        """The sections `model` and `shards` of a result."""
        digest, trained = file_sha256(self.shards / MANIFEST_NAME), self.card.shards_sha256
        shards = {"path": self.shards.as_posix(), "name": given_name(self.shards), "manifest_sha256": digest}
        model = {"path": self.reference, "sha256": self.sha256, "card": asdict(self.card)}
        return {"model": model, "shards": {**shards, "used_in_training": digest == trained}}

    @property
    def identity(self) -> dict[str, str]:
        """Digests of the model and of the shards."""
        return {"model": self.sha256, "shards": self.document["shards"]["manifest_sha256"]}

    def ask(self, pixels: Tensor) -> Any:
        """Return the network's answer to images (B, 3, H, W); raise `InputError` where that is an error of its own."""
        try:
            return self.network(pixels)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            shape = " × ".join(map(str, pixels.shape))
            raise InputError(
                f"Model {self.reference} fails on images of shape {shape} ({reason}): "
                "give one that takes the shards' images, float32 pixels in [0, 1], in batches of any size."
            ) from error

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, 3, H, W), without autocast or TensorFloat-32."""
        with torch.autocast(self.device.type, enabled=False), without_tf32():
            logits: Tensor = self.ask(pixels.to(self.device))
        return logits

    def predict(self, pixels: Tensor) -> list[int]:
        """Return the classes that the model takes images (B, 3, H, W) for (see `classes_of`)."""
        return classes_of(self.logits(pixels))

    def batches(self, batch_size: int, keys: set[str] | None = None) -> Iterator[list[TestImage]]:
        """Yield the test images of the shards in batches, or those of some keys."""
        images = load_test_images(self.shards, *self.sees)
        chosen = (image for image in images if keys is None or image.key in keys)
        while batch := list(islice(chosen, batch_size)):
            yield batch

    def classify(self, batch_size: int, progress: Show) -> dict[str, bool]:
        """Return by key which test images of the shards the model gets right."""
        right: dict[str, bool] = {}
        for batch in self.batches(batch_size):
            classes = self.predict(torch.stack([image.pixels for image in batch]))
            right |= {image.key: image.label == each for image, each in zip(batch, classes, strict=True)}
            progress("Test images", len(right), self.test_images)
        return right

    def right_afresh(self, images: Tensor, labels: Tensor, batch_size: int) -> list[bool]:
        """Return which images (N, C, H, W) a model that saw none yet gets right, (N,), when the last one comes first.

        A function of the user's own may keep what its model saw where no copy leaves it behind, such as in a global of
        its module. So a model that such a function makes is opened again, in a process of its own.

        Raises `InputError` where there is no such model, or it does not answer within ten minutes.
        """
        asked = images.detach().flip(0), labels.flip(0), batch_size
        if self.untouched is not None:
            return _right(copy.deepcopy(self.untouched), *asked)[::-1]
        if not self.reopened:
            raise InputError("the model cannot be copied")
        context = process_context()
        receiver, sender = context.Pipe(duplex=False)
        arrays = asked[0].cpu().numpy(), asked[1].cpu().numpy()  # tensors would have to lie in shared memory
        known = self.reference, self.shards, self.sha256, getattr(self.network, "draws", 1)
        process = context.Process(target=_answer_afresh, args=(sender, *known, *arrays, batch_size))
        process.start()
        sender.close()
        try:
            answer = receiver.recv() if receiver.poll(PATIENCE) else "it does not answer"
        except EOFError:
            answer = "it ends without an answer"
        finally:
            process.kill()
            process.join()
        if isinstance(answer, str):
            raise InputError(f"the model cannot be opened again in a process of its own: {answer}")
        return list(answer)[::-1]


def open_model(model: str | Path | nn.Module, shards: Path) -> Target:
    """Open a model for the test images of a shard folder.

    Args:
        model: a file that `train run` wrote, or the folder it lies in; `package.module:function`, whose call without
            arguments returns a network; or a network itself, which is put into eval mode and moved. A network may name
            its classes in an attribute `class_names`; otherwise it has those of the shards.
        shards: the shard folder; it gives the images' size where there is no model file.

    Raises:
        InputError: there is no such file or function, it is damaged or no network, it fails on images of that size, or
            its classes are not those of the shards.
    """
    manifest = read_manifest(shards)
    if isinstance(model, nn.Module):
        network, reference = model, type(model).__name__
    elif is_reference(str(model)):
        network, reference = call_reference(str(model)), str(model)
        for parameter in network.parameters():  # a TorchScript module has no requires_grad_
            parameter.requires_grad_(False)
    else:
        path = model_file(Path(model))
        network, card = load_model(path)
        network.to(memory_format=torch.channels_last)  # as in training; on CPUs passes are up to twice as fast
        return _opened(Target(network, card, path.as_posix(), file_sha256(path), shards, manifest))
    copy_inference_tensors(network)
    card = _external_card(network, reference, manifest)
    return _opened(Target(network, card, reference, _digest(network, reference), shards, manifest))


def _opened(target: Target) -> Target:
    """Check a target, and put its network into eval mode on the device to use."""
    known, given = target.card.class_names, target.manifest.class_names
    mend = "attack it on shards of the data set that it was trained on."
    if len(known) != len(given):
        raise InputError(f"{target.reference} knows {len(known)} classes but {target.shards} has {len(given)}: {mend}")
    for label, (ours, theirs) in enumerate(zip(known, given, strict=True)):
        if ours != theirs:
            raise InputError(
                f"Class {label} is {ours!r} in {target.reference} but {theirs!r} in {target.shards}: {mend}"
            )
    target.network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    with suppress(Exception):  # whatever keeps a foreign network from being copied: a check says so
        target = target if target.reopened else replace(target, untouched=separate_copy(target.network))
    _check_outputs(target)
    return target


def _external_card(network: nn.Module, reference: str, manifest: Manifest) -> ModelCard:
    """Describe a network that this program did not train; images come to it in the shards' own size, if they have one.

    Its seed is -1, and what it was trained on is unknown.
    """
    size = manifest.spec.get("size")
    names = getattr(network, "class_names", manifest.class_names)
    if isinstance(names, str | Tensor) or not isinstance(names, Sequence):
        raise InputError(f"Model {reference} has class_names that are no list of names: mend or remove them.")
    arch, class_names = reference.rpartition(":")[2], [str(name) for name in names]
    shown = size or PAPER_SIZE, "small" if size else "paper"
    return ModelCard(arch, EXTERNAL, class_names, *shown, seed=-1, shards_sha256="", versions={})


def _digest(network: nn.Module, reference: str) -> str:
    """Return a SHA-256 of a network's tensors, of its name, and of the files that hold its code and its function's.

    The same tensors may serve several functions, whose results must not be mixed.
    """
    tensors = {name: value.detach().cpu() for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    digest = hashlib.sha256(f"{tensors_sha256(tensors)} {reference}".encode())
    modules = {type(module).__module__ for module in network.modules()} | {reference.partition(":")[0]}
    for path in code_files(modules):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@torch.no_grad()
def _check_outputs(target: Target) -> None:
    """Show the network one grey image, and raise `InputError` where it does not answer with a row of logits."""
    size, classes = target.card.image_size, target.classes
    outputs = target.ask(torch.full((1, 3, size, size), 0.5, device=target.device))
    if not isinstance(outputs, Tensor):
        raise InputError(f"Model {target.reference} returns {type(outputs).__name__}: return the logits alone.")
    if not outputs.is_floating_point():
        raise InputError(f"Model {target.reference} returns {outputs.dtype}: return logits, floating-point numbers.")
    if outputs.shape != (1, classes):
        found = " × ".join(map(str, outputs.shape))
        raise InputError(f"Model {target.reference} returns {found} numbers an image, not {classes} logits.")


@contextmanager
def without_tf32() -> Iterator[None]:
    """Leave TensorFloat-32 out of convolutions: on some GPUs it silently rounds them to ten bits.

    `torch.backends.cudnn.flags` would switch cuDNN itself off.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def classes_of(logits: Tensor) -> list[int]:
    """Return the classes of logits (B, C): `NO_CLASS`, an error, where one is NaN or infinite."""
    classes: list[int] = logits.argmax(1).where(logits.isfinite().all(1), NO_CLASS).tolist()
    return classes


@torch.no_grad()
def answers(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Return a model's logits (N, classes) of images (N, 3, H, W) on its device, without autocast."""
    with torch.autocast(images.device.type, enabled=False):
        return torch.cat([model(batch) for batch in torch.split(images, batch_size)])


def _answer_afresh(
    sender: Connection, reference: str, shards: Path, sha256: str, draws: int, images: Any, labels: Any, batch_size: int
) -> None:
    try:
        target = open_model(reference, shards)
        if target.sha256 != sha256:
            raise InputError("its weights or its code are others than before")
        model, device = Averaged(target.network, draws).eval(), target.device
        with without_tf32():
            shown, right = (torch.from_numpy(array).to(device) for array in (images, labels))
            sender.send(_right(model, shown, right, batch_size))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def _right(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> list[bool]:
    right: list[bool] = (~misclassified(answers(model, images, batch_size), labels)).tolist()
    return right
