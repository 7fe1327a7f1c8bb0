import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack import AttackConfig, attack_model, image_order, read_result, worst_case
from stylize.console import InputError
from stylize.shards.manifest import MANIFEST_NAME
from tests.attack.attacks.test_autoattack import Short
from tests.attack.conftest import LinearClassifier, Remembers
from train import load_model, load_test_images

Maker = Callable[..., Path]
QUICK = AttackConfig(images=12, steps=8, step_size=0.0005)


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=30)


@pytest.fixture
def linear(shards: Path) -> LinearClassifier:
    return LinearClassifier(list(load_test_images(shards, 16, "small")), 3)


def test_a_trained_model_by_the_papers_path(shards: Path, make_model: Maker, tmp_path: Path) -> None:
    path = make_model(shards)
    config = AttackConfig(suite="paper", images=9, steps=6, step_size=0.0005, batch_size=4)
    document = attack_model(path, shards, tmp_path / "out.json", config)

    assert json.loads((tmp_path / "out.json").read_text()) == document
    assert document["model"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["shards"]["manifest_sha256"] == hashlib.sha256((shards / MANIFEST_NAME).read_bytes()).hexdigest()
    assert document["shards"]["used_in_training"] is True
    assert document["versions"]["torch"] == torch.__version__
    model, _ = load_model(path)
    tests = {image.key: image for image in load_test_images(shards, 16, "small")}
    right = {key: bool(model(image.pixels[None]).argmax() == image.label) for key, image in tests.items()}
    keys = image_order(tests)[:9]
    assert document["clean"] == {"accuracy": sum(right.values()) / 30, "correct": sum(right.values()), "images": 30}
    assert document["images"]["keys"] == keys
    assert document["images"]["labels"] == [tests[key].label for key in keys]
    assert document["images"]["correct"] == [int(right[key]) for key in keys]
    assert [record["key"] for record in document["path"]["records"]] == [key for key in keys if right[key]]
    failed = {check["name"] for check in document["checks"] if not check["passed"]}
    assert failed <= {"logits, not probabilities", "enough classes for every loss"}  # three, fitted to 0 and 1


def test_two_models_meet_the_same_images(shards: Path, make_result: Maker) -> None:
    first, second = (read_result(make_result(shards, "normal", seed=seed, suite="paper")) for seed in (0, 9))
    assert first.keys == second.keys
    assert first.clean != second.clean
    assert set(first.records.keys) == {key for key, right in zip(first.keys, first.clean, strict=True) if right}


def test_distances_keep_every_digit(shards: Path, linear: nn.Module, tmp_path: Path) -> None:
    attack_model(linear, shards, tmp_path / "out.json", AttackConfig(suite="paper", images=5, steps=4))
    records = read_result(tmp_path / "out.json").records
    pixels = {image.key: image.pixels for image in load_test_images(shards, 16, "small")}
    for key, linf in zip(records.keys, records.linf, strict=True):
        moved = (pixels[key] + torch.tensor(1e-4)).double() - pixels[key].double()
        down = (pixels[key] - torch.tensor(1e-4)).double() - pixels[key].double()
        assert linf[1] in {*moved.abs().flatten().tolist(), *down.abs().flatten().tolist()}


def test_attacks_are_judged_over_all_images(shards: Path, linear: LinearClassifier, tmp_path: Path) -> None:
    attack_model(linear, shards, tmp_path / "out.json", QUICK)
    result = read_result(tmp_path / "out.json")
    named = {(attack.name, attack.epsilon): attack for attack in result.attacks}
    assert {name for name, _ in named} == {
        "paper-path", "single-step", "noise", "pgd-ce", "pgd-targeted", "square", "unbounded",
    }  # fmt: skip
    assert len(named) == len(result.attacks) == 12
    tests = {image.key: image for image in load_test_images(shards, 16, "small")}
    for attack in result.attacks:
        assert len(attack.robust) == 12
        assert all(clean or not robust for robust, clean in zip(attack.robust, result.clean, strict=True))
    for epsilon in QUICK.epsilons:  # one step up the gradient, by hand: z_y against each other class is linear
        for robust, key in zip(named["single-step", epsilon].robust, result.keys, strict=True):
            assert robust == survives_one_step(linear, tests[key].pixels, tests[key].label, epsilon)
        ours = worst_case(result.clean, result.attacks, "linf", epsilon)
        slow = [
            all(
                attack.robust[i]
                for attack in result.attacks
                if attack.epsilon is not None and attack.epsilon <= epsilon
            )
            and named["paper-path", None].distance[i] > epsilon
            and result.clean[i]
            for i in range(12)
        ]
        assert list(ours) == slow


def survives_one_step(model: LinearClassifier, pixels: Tensor, label: int, epsilon: float) -> bool:
    weight, bias = model.linear.weight.detach(), model.linear.bias.detach()
    probabilities = (weight @ pixels.flatten() + bias).softmax(0)
    gradient = weight.T @ (probabilities - torch.eye(len(bias))[label])
    attacked = (pixels.flatten() + epsilon * gradient.sign()).clamp(0, 1)
    return bool((weight @ attacked + bias).argmax() == label) and bool(
        (weight @ pixels.flatten() + bias).argmax() == label
    )


def test_the_full_suite(make_shard_folder: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyautoattack.AutoAttack", Short)
    shards = make_shard_folder(classes=4, test=24)
    model = LinearClassifier(list(load_test_images(shards, 16, "small")), 4)
    config = AttackConfig(suite="full", images=6, strong_images=4, steps=2, epsilons=(4 / 255,))
    attack_model(model, shards, tmp_path / "out.json", config)
    result = read_result(tmp_path / "out.json")

    named = {(attack.name, attack.epsilon, attack.norm): attack for attack in result.attacks}
    assert {name for name, *_ in named} == {
        "paper-path", "single-step", "noise", "pgd-ce", "pgd-targeted", "pgd-margin", "pgd-ce-doubled", "pgd-restarts",
        "square", "minimal-norm", "autoattack", "unbounded",
    }  # fmt: skip
    for epsilon in config.epsilons:
        ensemble = named["autoattack", epsilon, "linf"]
        before = worst_case(result.clean, result.attacks[: result.attacks.index(ensemble)], "linf", epsilon)
        assert ensemble.settings["images"] == 4
        assert ensemble.settings["attacked"] == sum(before[:4])
        assert ensemble.robust[4:] == before[4:]
        assert all(not robust or standing for robust, standing in zip(ensemble.robust, before, strict=True))
    nearest = named["minimal-norm", None, "linf"]
    assert all(far == 0 for far, right in zip(nearest.distance, result.clean, strict=True) if not right)
    assert all(far == np.inf for far, right in zip(nearest.distance[4:], result.clean[4:], strict=True) if right)
    assert 0 < min(far for far, right in zip(nearest.distance, result.clean, strict=True) if right) < 0.2


def test_the_full_suite_without_its_library(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attack.evaluation.suite.find_spec", lambda name: None)
    model = LinearClassifier(list(load_test_images(shards, 16, "small")), 3)
    with pytest.raises(InputError, match=r"stylized-pairing\[attacks\]"):
        attack_model(model, shards, tmp_path / "out.json", AttackConfig(suite="full", images=2))
    assert list(tmp_path.glob("*.json")) == []


class StoppedError(Exception):
    pass


def test_an_interrupted_run_goes_on(shards: Path, linear: nn.Module, tmp_path: Path) -> None:
    whole = attack_model(linear, shards, tmp_path / "whole.json", QUICK)
    seen: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        seen.append(stage)
        if "pgd-ce L∞ 8/255" in stage:
            raise StoppedError

    out = tmp_path / "folder" / "out.json"
    with pytest.raises(StoppedError):
        attack_model(linear, shards, out, QUICK, progress=stop)
    assert [path.name for path in out.parent.iterdir()] == [".out.json.partial"]
    parts = json.loads((out.parent / ".out.json.partial").read_text())["parts"]
    assert "pgd-ce L∞ 2/255" in parts
    parts_before = dict(parts)
    passes: list[int] = []
    handle = linear.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    again = attack_model(linear, shards, out, QUICK)
    handle.remove()

    assert [path.name for path in out.parent.iterdir()] == ["out.json"]
    same = ("images", "path", "attacks", "checks", "verdicts", "clean")
    for name in same:
        assert without_seconds(again[name]) == without_seconds(whole[name])
    stored = next(a for a in again["attacks"] if a["name"] == "pgd-ce" and a["epsilon"] == 2 / 255)
    assert stored == parts_before["pgd-ce L∞ 2/255"]  # its seconds too: it did not run again


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {name: without_seconds(item) for name, item in value.items() if name != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_parts_of_another_evaluation_are_not_used(shards: Path, linear: nn.Module, tmp_path: Path) -> None:
    out, partial = tmp_path / "out.json", tmp_path / ".out.json.partial"
    for content in ('{"identity": {}, "parts": {"split": {"correct": {}}}}', "{", "[]"):
        partial.write_text(content)
        document = attack_model(linear, shards, out, AttackConfig(suite="paper", images=3, steps=1))
        assert document["clean"]["images"] == 30
        assert not partial.exists()


def test_fewer_images_than_asked_for(shards: Path, linear: nn.Module, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    document = attack_model(
        linear, shards, tmp_path / "out.json", AttackConfig(suite="paper", images=1000, steps=1),
        progress=lambda stage, done, total: seen.append((stage, done, total)),
    )  # fmt: skip
    right = document["clean"]["correct"]
    assert len(document["images"]["keys"]) == document["path"]["images"] == 30
    assert seen[-1] == ("Paper's path", right, right)
    assert ("Test images", 30, 30) in seen


class Silent(nn.Module):
    """A model that cuts its graph, as defences by JPEG or quantisation do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.detach())
        return logits.detach()


def test_a_model_without_gradients_is_suspected(
    shards: Path, linear: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyautoattack.AutoAttack", Short)
    attack_model(Silent(linear), shards, tmp_path / "out.json", AttackConfig(suite="full", images=6, steps=2))
    result = read_result(tmp_path / "out.json")
    failed = {check.name for check in result.checks if not check.passed}
    assert {"gradient reaches the pixels", "unbounded attack reaches 0"} <= failed


def test_a_model_that_is_always_wrong(make_shard_folder: Maker, tmp_path: Path) -> None:
    shards = make_shard_folder(classes=4, train=4, test=3)  # labels 0 to 2 in the test split
    model = LinearClassifier(list(load_test_images(shards, 16, "small")), 4)
    with torch.no_grad():
        model.linear.bias[3] = 1000
    document = attack_model(model, shards, tmp_path / "out.json", QUICK)
    result = read_result(tmp_path / "out.json")
    assert document["clean"]["correct"] == 0
    assert document["path"]["records"] == []
    assert not any(worst_case(result.clean, result.attacks, "linf", 8 / 255))
    assert document["forwards"] == document["backwards"] == 0
    assert {verdict["word"] for verdict in document["verdicts"]} == {"near chance"}


def damage(document: dict[str, object], how: str) -> str:
    path = document["path"]
    assert isinstance(path, dict)
    records = path["records"]
    if how == "short record":
        records[0]["l2"].pop()
    elif how == "nan":
        records[0]["l2"][1] = float("nan")
    elif how == "fewer labels":
        document["images"]["labels"].pop()  # type: ignore[index]
    elif how == "short attack":
        document["attacks"][0]["robust"].pop()  # type: ignore[index]
    elif how in ("versions", "seconds"):
        document[how] = "text"
    elif how == "4":
        document["format_version"] = 4
    else:
        del document[how]
    return json.dumps(document)


def test_damaged_results_are_refused(shards: Path, make_result: Maker) -> None:
    path = make_result(shards, "normal", suite="paper", images=6, steps=2)
    sound = path.read_text()
    for how, message in (
        ("short record", "damaged"),
        ("nan", "damaged"),
        ("fewer labels", "damaged"),
        ("short attack", "damaged"),
        ("clean", "damaged"),
        ("checks", "damaged"),
        ("versions", "damaged"),
        ("seconds", "damaged"),
        ("4", "format version 4; .* 2 and 3"),
        ("format_version", "not a result"),
    ):
        path.write_text(damage(json.loads(sound), how))
        with pytest.raises(InputError, match=message):
            read_result(path)


def test_files_that_are_no_results(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[]", b"3", b'{"format_version": 2}', b"\xff\xfe"):
        path = tmp_path / "result.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"result\.json"):
            read_result(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_result(tmp_path / "missing.json")


def test_batch_size_changes_rounding_only(shards: Path, linear: nn.Module, tmp_path: Path) -> None:
    one, other = (
        attack_model(
            linear, shards, tmp_path / "out.json", AttackConfig(suite="paper", images=6, steps=4, batch_size=size)
        )
        for size in (2, 30)
    )
    for record, same in zip(one["path"]["records"], other["path"]["records"], strict=True):
        np.testing.assert_allclose(record["linf"], same["linf"], rtol=0.05)


def test_a_file_of_another_kind_is_not_replaced(shards: Path, linear: LinearClassifier, tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text("my notes")
    with pytest.raises(InputError, match=r"notes\.json is there and was not made by this command"):
        attack_model(linear, shards, notes, QUICK)
    assert notes.read_text() == "my notes"


def test_a_model_that_remembers_is_asked_again_from_the_start(
    shards: Path, linear: LinearClassifier, tmp_path: Path
) -> None:
    config = AttackConfig(images=15, steps=8, step_size=0.0005, epsilons=(16 / 255,))
    attack_model(linear, shards, tmp_path / "plain.json", config)
    attack_model(Remembers(linear, 20 / 255), shards, tmp_path / "out.json", config)
    plain, result = read_result(tmp_path / "plain.json"), read_result(tmp_path / "out.json")
    assert sum(result.cells[-1].robust) <= sum(plain.cells[-1].robust) + 1
    failed = {check.name for check in result.checks if not check.passed}
    assert "a fresh copy answers alike" in failed


class BreaksDown(nn.Module):
    """Answers images off the 8-bit grid with a number that is none, or not at all."""

    def __init__(self, model: nn.Module, *, raises: bool) -> None:
        super().__init__()
        self.model, self.raises = model, raises

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        off = ((images * 255 - (images * 255).round()).abs() > 1e-3).flatten(1).any(1)
        if self.raises and images.requires_grad and off.any():
            raise ValueError("These are no 8-bit images.")
        return torch.where(off[:, None], torch.nan, logits)


def test_logits_that_are_no_numbers_are_errors(shards: Path, linear: LinearClassifier, tmp_path: Path) -> None:
    attack_model(BreaksDown(linear, raises=False), shards, tmp_path / "out.json", QUICK)
    result = read_result(tmp_path / "out.json")
    assert not any(robust for cell in result.cells for robust in cell.robust)
    assert not any(result.attacks[0].robust)  # the paper's path leaves the grid at its first step


def test_errors_of_a_model_lose_no_result(shards: Path, linear: LinearClassifier, tmp_path: Path) -> None:
    attack_model(BreaksDown(linear, raises=True), shards, tmp_path / "out.json", QUICK)
    result = read_result(tmp_path / "out.json")
    (failed,) = (check for check in result.checks if check.name == "every attack could be made")
    assert "pgd-ce L∞ 2/255" in failed.detail
    assert "These are no 8-bit images." in failed.detail
    assert len(result.attacks) == 12
    assert all(verdict.word != "holds" for verdict in result.verdicts)


def test_progress_of_attacks_goes_by_their_passes(shards: Path, linear: LinearClassifier, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    document = attack_model(linear, shards, tmp_path / "out.json", QUICK, progress=lambda *one: seen.append(one))
    attacks = [(done, total) for stage, done, total in seen if stage.startswith("Attacks")]
    cost = [attack["forwards"] + 2 * attack["backwards"] for attack in document["attacks"]]
    assert [done for done, _ in attacks] == [sum(cost[: number + 1]) for number in range(len(cost))]
    assert attacks[-1] == (sum(cost), sum(cost))
    estimates = [total for _, total in attacks[:-1]]
    assert all(later <= 1.05 * earlier for earlier, later in pairwise(estimates))  # what withstands grows fewer
    assert any("square L∞ 2/255" in stage for stage, *_ in seen)
