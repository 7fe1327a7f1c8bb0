import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attack import AttackConfig, TransferConfig, attack_model, attack_transfer, read_result
from attack.attacks.pgd import pgd
from attack.evaluation.transfer import read_transfer, transfer_attacks
from attack.report.groups import take_in
from stylize.console import InputError
from train import load_model, load_test_images

Maker = Callable[..., Path]
SHARED: dict[str, Any] = {"images": 5, "epsilons": (8 / 255,)}
CONFIG, TRANSFER = AttackConfig(suite="paper", steps=1, **SHARED), TransferConfig(**SHARED)


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=12)


@pytest.fixture
def models(shards: Path, make_model: Maker) -> list[Path]:
    return [make_model(shards, name, seed=seed) for seed, name in enumerate(("first", "second"))]


def test_each_model_sees_the_others_images(shards: Path, models: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "transfer.json"
    attack_transfer(models, shards, out, TRANSFER)
    for path in models:
        attack_model(path, shards, tmp_path / f"{path.parent.name}.json", CONFIG)
    transfer = read_transfer(out)
    results = [read_result(tmp_path / f"{path.parent.name}.json") for path in models]

    (source, _), (target, _) = (load_model(path) for path in models)
    tests = {image.key: image for image in load_test_images(shards, 16, "small")}
    images = [tests[key] for key in results[0].keys]
    pixels, labels = torch.stack([image.pixels for image in images]), torch.tensor([image.label for image in images])
    attacked = pgd(
        source, pixels, labels, norm="linf", epsilon=8 / 255, steps=20, batch_size=50, keep_going=True
    ).images
    (attack,) = transfer_attacks(transfer, results[1])
    assert (attack.name, attack.kind, attack.epsilon) == ("transfer:first", "transfer", 8 / 255)
    right = (target(attacked).argmax(1) == labels) & (target(pixels).argmax(1) == labels)
    assert list(attack.robust) == right.tolist()

    taken = take_in(transfer, results[1])
    assert taken.attacks == (*results[1].attacks, attack)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_transfer_on_other_images_is_not_taken_in(shards: Path, models: list[Path], tmp_path: Path) -> None:
    attack_transfer(models, shards, tmp_path / "transfer.json", TransferConfig(images=4, epsilons=(8 / 255,)))
    attack_model(models[0], shards, tmp_path / "out.json", CONFIG)
    transfer, result = read_transfer(tmp_path / "transfer.json"), read_result(tmp_path / "out.json")
    with pytest.raises(InputError, match="other images"):
        transfer_attacks(transfer, result)
    transfer.document["models"][0]["sha256"] = "of another model"
    assert transfer_attacks(transfer, result) == []


def test_transfers_that_make_no_sense(
    shards: Path, models: list[Path], make_shard_folder: Maker, make_model: Maker, tmp_path: Path
) -> None:
    larger = make_model(make_shard_folder("larger", size=20, test=12), "larger")
    for given, message in (
        ([models[0], models[1], models[0]], "the same model"),
        ([models[0], larger], "sees images of 16 pixels and .* of 20"),
    ):
        with pytest.raises(InputError, match=message):
            attack_transfer(given, shards, tmp_path / "out.json", TRANSFER)
    assert not list(tmp_path.glob("*.json"))


def test_files_that_are_no_transfers(tmp_path: Path) -> None:
    path = tmp_path / "transfer.json"
    whole = {
        "format_version": 1,
        "models": [{}],
        "images": {"keys": ["a"]},
        "sources": [{"tried": [{"right": [[1, 0]]}]}],
    }
    for content, message in (
        ("{", "not a whole file"),
        (json.dumps(whole), "not a whole file"),
        (json.dumps({**whole, "sources": [], "format_version": 9}), "format version 9"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_transfer(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_transfer(tmp_path / "missing.json")
