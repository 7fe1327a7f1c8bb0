"""Small trained models and results, made in the test."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attack import attack_model
from stylize.shards.format import file_sha256
from stylize.shards.manifest import MANIFEST_NAME, read_manifest
from train import ModelCard, build_model, load_test_images, save_model

ModelMaker = Callable[..., Path]
ResultMaker = Callable[..., Path]


def fit_head(model: nn.Module, pixels: Tensor, labels: Tensor) -> None:
    """Fit the last layer by ridge regression on the features of the images, after one pass that sets BatchNorm."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    for norm in norms:
        norm.momentum = 1.0
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model.train()(pixels)
        model.eval()(pixels)
        features = torch.cat([seen[-1], torch.ones(len(pixels), 1)], 1)
        targets = torch.eye(head.out_features)[labels]
        gram = features.T @ features + 10 * torch.eye(features.shape[1])
        solution = torch.linalg.solve(gram, features.T @ targets)
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])
    handle.remove()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny models off the other cores: on a busy machine waiting for them costs more than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Return a function that writes a MobileNetV3 that knows the test images of a shard folder."""

    def make(shards: Path, name: str = "model", *, method: str = "normal", seed: int = 0, **changes: object) -> Path:
        manifest = read_manifest(shards)
        size = int(manifest.spec["size"])
        torch.manual_seed(seed)
        model = build_model("mobilenet_v3_small", len(manifest.class_names))
        images = list(load_test_images(shards, size, "small"))
        fit_head(
            model, torch.stack([image.pixels for image in images]), torch.tensor([image.label for image in images])
        )
        digest = file_sha256(shards / MANIFEST_NAME)
        card = ModelCard("mobilenet_v3_small", method, manifest.class_names, size, "small", seed, digest, {})
        path = tmp_path / name / "model.safetensors"
        save_model(path, model, replace(card, **changes))  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture
def make_result(tmp_path: Path, make_model: ModelMaker) -> ResultMaker:
    """Return a function that attacks a small model with few, larger steps and returns the result's path."""

    def make(shards: Path, method: str, *, seed: int = 0, **changes: object) -> Path:
        model = make_model(shards, f"{method}-{seed}", method=method, seed=seed)
        out = tmp_path / f"{method}-{seed}.json"
        attack_model(model, shards, out, **{"images": 6, "steps": 8, "step_size": 0.0005, **changes})  # type: ignore[arg-type]
        return out

    return make
