"""Small trained models and results, made in the test."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack import AttackConfig, attack_model
from attack.evaluation.paper_path import path_attack
from attack.evaluation.result import attack_document, encode_result
from stylize.files import file_sha256
from stylize.shards.manifest import MANIFEST_NAME, read_manifest
from tests.attack.planted import networks
from train import ModelCard, TestImage, build_model, load_test_images, save_model

ModelMaker = Callable[..., Path]
ResultMaker = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def networks_are_trained_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    own = tmp_path_factory.getbasetemp()
    networks.FOLDER = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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


_fitted: dict[tuple[str, int], nn.Module] = {}


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Return a function that writes a MobileNetV3 that knows the test images of a shard folder."""

    def make(shards: Path, name: str = "model", *, method: str = "normal", seed: int = 0, **changes: object) -> Path:
        manifest = read_manifest(shards)
        size = int(manifest.spec["size"])
        digest = file_sha256(shards / MANIFEST_NAME)
        if (digest, seed) not in _fitted:
            torch.manual_seed(seed)
            model = build_model("mobilenet_v3_small", len(manifest.class_names))
            images = list(load_test_images(shards, size, "small"))
            fit_head(
                model, torch.stack([image.pixels for image in images]), torch.tensor([image.label for image in images])
            )
            _fitted[digest, seed] = model
        card = ModelCard("mobilenet_v3_small", method, manifest.class_names, size, "small", seed, digest, {})
        path = tmp_path / name / "model.safetensors"
        save_model(path, _fitted[digest, seed], replace(card, **changes))  # type: ignore[arg-type]
        return path

    return make


class LinearClassifier(nn.Module):
    """Logits linear in the pixels, fitted to images by ridge regression: quick to attack, and not robust.

    Every `wrong`-th image is learnt under the next label, so that clean errors occur.
    """

    def __init__(self, images: Sequence[TestImage], classes: int, *, wrong: int = 5) -> None:
        super().__init__()
        pixels = torch.stack([image.pixels for image in images])
        self.flatten, self.linear = nn.Flatten(), nn.Linear(pixels[0].numel(), classes)
        features = torch.cat([pixels.flatten(1), torch.ones(len(pixels), 1)], 1)
        labels = [(image.label + (index % wrong == 0)) % classes for index, image in enumerate(images)]
        targets = 10 * torch.eye(classes)[torch.tensor(labels)]
        gram = features @ features.T + 0.1 * torch.eye(len(pixels))
        solution = features.T @ torch.linalg.solve(gram, targets)
        with torch.no_grad():
            self.linear.weight.copy_(solution[:-1].T)
            self.linear.bias.copy_(solution[-1])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.flatten(x))
        return logits


class Remembers(nn.Module):
    """Answers images near an earlier one with that one's class: a network that nothing protects."""

    def __init__(self, model: nn.Module, near: float = 10 / 255) -> None:
        super().__init__()
        self.training = False
        self.model, self.near = model, near
        self.known: list[Tensor] = []
        self.answers: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        rows = []
        for image, logits in zip(images, self.model(images), strict=True):
            far = [float((image.detach() - other).abs().amax()) for other in self.known]
            place = next((index for index, distance in enumerate(far) if distance < self.near), len(far))
            if place == len(far):
                self.known.append(image.detach().clone())
                self.answers.append(int(logits.argmax()))
            order = torch.arange(len(logits))
            order[[int(logits.argmax()), self.answers[place]]] = torch.tensor(
                [self.answers[place], int(logits.argmax())]
            )
            rows.append(logits[order])
        return torch.stack(rows) if rows else self.model(images)


_attacked: dict[tuple[str, int, str], str] = {}


@pytest.fixture
def make_result(tmp_path: Path) -> ResultMaker:
    """Return a function that evaluates a linear model, says that a method trained it, and returns the result's path.

    Other seeds are wrong on other images.  Models of one seed, attacked alike on equal images, are attacked once.
    """

    def make(
        shards: Path,
        method: str,
        *,
        seed: int = 0,
        arch: str = "mobilenet_v3_small",
        trained_on: str = "",
        **config: Any,
    ) -> Path:
        digest = file_sha256(shards / MANIFEST_NAME)
        out, asked = tmp_path / f"{method}-{seed}.json", (digest, seed, repr(config))
        if asked not in _attacked:
            images = list(load_test_images(shards, 16, "small"))
            model = LinearClassifier(images, 3, wrong=5 + seed)
            attack_model(model, shards, out, AttackConfig(**{"images": 12, "steps": 8, "step_size": 0.0005, **config}))
            _attacked[asked] = out.read_text()
        document = json.loads(_attacked[asked])
        document["shards"] |= {"path": str(shards), "name": shards.name}
        for verdict in document["verdicts"]:
            verdict["word"] = "inconclusive"  # so few images are hardly above guessing
        document["model"]["path"] = f"models/{method}-{seed}/model.safetensors"
        trained_on = trained_on or digest
        document["model"]["card"] |= {"method": method, "seed": seed, "arch": arch, "shards_sha256": trained_on}
        out.write_bytes(encode_result(document))
        return out

    return make


CARD = {"arch": "resnet18", "class_names": ["a", "b"], "image_size": 32, "seed": 0}


def _earlier(correct: list[list[int]], accuracy: float = 0.75, method: str = "pairing") -> dict[str, Any]:
    linf = [step / 100 for step in range(len(correct[0]))]
    keys, right = [f"{key:08}" for key in range(len(correct))], [True] * len(correct)
    records = [
        {"key": key, "correct": row, "l2": [far * 5 for far in linf], "linf": linf}
        for key, row in zip(keys, correct, strict=True)
    ]
    passes = {"forwards": 90, "backwards": 90, "seconds": 23.0}
    path = {"images": len(keys), "steps": len(linf) - 1, "step_size": 0.01, "zero_gradient": "stay", **passes}
    path |= {"loss": [0.1 * step for step in range(len(linf))], "records": records}
    protocol = {
        "suite": "paper",
        "images": len(keys),
        "strong_images": 100,
        "epsilons": [],
        "batch_size": 25,
        "seed": 0,
    }
    return {
        "format_version": 2,
        "model": {
            "path": "m/model.safetensors",
            "sha256": "1" * 64,
            "card": {**CARD, "method": method, "shards_sha256": "2" * 64, "config": {}},
        },
        "shards": {"path": "s_$x^{y$", "name": "s_$x^{y$", "manifest_sha256": "2" * 64, "used_in_training": True},
        "protocol": protocol,
        "clean": {"accuracy": accuracy, "correct": round(40 * accuracy), "images": 40},
        "images": {"keys": keys, "labels": [index % 2 for index in range(len(keys))], "correct": [1] * len(keys)},
        "verdict": {"word": "inconclusive", "reasons": ["as it was"], "numbers": {}},
        "path": path,
        "attempts": [attack_document(path_attack(keys, right, path))],
        "checks": [{"name": "eval mode", "passed": True, "detail": "0 of 9 modules in training mode"}],
        "versions": {"python": "3.11.7"},
        "hardware": {"cpu": "a processor", "threads": 2, "device": "cpu"},
        **passes,
    }


@pytest.fixture
def earlier() -> Callable[..., dict[str, Any]]:
    """Return a function of 0/1 records (images, steps + 1) that gives a result as `attack run` wrote it in version 2.

    Images move 0.01 in L∞ a step.
    """
    return _earlier


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode no figure, for a test that reads words and numbers alone; others look at such figures."""
    monkeypatch.setattr("attack.report.build.figure_bytes", lambda figure, kind: b"")
    monkeypatch.setattr("attack.report.figures.figure_bytes", lambda figure, kind: b"<svg></svg>")
