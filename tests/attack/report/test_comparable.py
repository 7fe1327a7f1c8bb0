"""Results of several projects: what is compared, what is not, and why; and RobustBench's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attack import read_result, write_report
from attack.report.build import export_results
from attack.report.groups import group_results, why_apart
from stylize.console import InputError

Maker = Callable[..., Path]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def ours(make_shard_folder: Maker, make_result: Maker) -> Path:
    return make_result(make_shard_folder(test=30), "pairing", epsilons=(1e-4,))


def theirs(ours: Path, change: Change, sha256: str = "f" * 64, folder: str = "theirs") -> Path:
    """Write a result as another person sends it: of another model, at the same path there."""
    document = json.loads(ours.read_text())
    document["model"]["sha256"] = sha256
    change(document)
    path = ours.parent / folder / ours.name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def nothing(document: dict[str, Any]) -> None:
    """Change nothing."""


def old(document: dict[str, Any]) -> None:
    del document["images"]["sha256"]


def groups(*paths: Path) -> list[list[str]]:
    return [[entry.label for entry in group.entries] for group in group_results(list(map(read_result, paths)))]


def test_models_of_one_path_are_named_by_their_files(ours: Path) -> None:
    other = theirs(ours, nothing)
    assert sorted(groups(ours, other)[0]) == sorted([f"pairing ({ours})", f"pairing ({other})"])
    with pytest.raises(InputError, match=r"theirs.*same model|same model.*theirs"):
        groups(other, theirs(ours, nothing, folder="again"))


def other_keys(document: dict[str, Any]) -> None:
    document["images"]["keys"] = [f"x{key}" for key in document["images"]["keys"]]


def other_size(document: dict[str, Any]) -> None:
    document["model"]["card"]["image_size"], document["images"]["sha256"] = 8, "0" * 64


def other_shards(document: dict[str, Any]) -> None:
    document["shards"]["manifest_sha256"] = "0" * 64
    old(document)


def longer_path(document: dict[str, Any]) -> None:
    document["path"]["steps"] += 1
    for record in document["path"]["records"]:
        for name in ("correct", "l2", "linf"):
            record[name].append(record[name][-1])


def other_pixels(document: dict[str, Any]) -> None:
    document["images"]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_pixels, "other pixels"),
        (other_size, "8 px"),
        (lambda document: document["images"].update(labels=[0] * 12), "other labels"),
        (other_keys, "0 of one key"),
        (lambda document: document["model"]["card"].update(class_names=["a", "b"]), "3 and 2"),
        (other_shards, "00000000…"),
    ],
)
def test_other_images_are_not_compared(ours: Path, change: Change, why: str) -> None:
    other = theirs(ours, change)
    assert [len(group) for group in groups(ours, other)] == [1, 1]
    assert why in why_apart(read_result(ours), read_result(other))


@pytest.mark.usefixtures("undrawn")
def test_page_and_terminal_say_what_is_not_compared(ours: Path, tmp_path: Path) -> None:
    said: list[str] = []
    page = write_report([ours, theirs(ours, other_keys)], tmp_path / "report", tell=said.append)
    (sentence,) = said
    assert "0 of one key" in sentence
    assert "0 of one key" in page.read_text(encoding="utf-8")


def test_files_without_a_digest_of_pixels_are_known_by_their_shards(ours: Path) -> None:
    one, two = theirs(ours, old), theirs(ours, old, "e" * 64, "older")
    assert [len(group) for group in groups(ours, one)] == [2]
    assert [len(group) for group in groups(one, two)] == [2]
    assert [len(group) for group in groups(one, two, ours)] == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document["attacks"].pop(), "unbounded"),
        (lambda document: document["attacks"][3]["settings"].update(steps=5), "pgd-ce"),
        (lambda document: document["protocol"].update(seed=1), "--seed"),
        (lambda document: document["protocol"].update(suite="full"), "--suite"),
        (longer_path, "--steps"),
        (lambda document: document["path"].update(step_size=0.1), "--step-size"),
    ],
)
def test_other_attacks_are_refused(ours: Path, change: Change, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        groups(ours, theirs(ours, change))
    assert str(ours) in str(error.value)


def test_an_attack_of_ones_own_is_no_reason(ours: Path) -> None:
    def with_own(document: dict[str, Any]) -> None:
        document["attacks"].append({**document["attacks"][-1], "name": "mine:attack", "epsilon": 1e-4})

    assert [len(group) for group in groups(ours, theirs(ours, with_own))] == [2]


def with_autoattack(document: dict[str, Any]) -> None:
    """Make the result one of CIFAR-10's size: 9 of 12 images are left by AutoAttack, 8 by all attacks."""
    attack = {**document["attacks"][3], "norm": "linf", "epsilon": 8 / 255, "distance": [8 / 255] * 12}
    found = [
        {**attack, "name": "autoattack", "robust": [1] * 9 + [0] * 3},
        {**attack, "name": "mine:attack", "robust": [0] + [1] * 8 + [0] * 3},
    ]
    document["attacks"], document["verdicts"] = found, [{**document["verdicts"][0], "epsilon": 8 / 255}]
    document["images"]["correct"] = [1] * 12
    document["clean"] = {"accuracy": 0.9123, "correct": 9123, "images": 10000}
    document["shards"]["name"] = "../cifar 10"


def test_robustbench_files_have_its_fields(ours: Path, tmp_path: Path) -> None:
    (path,) = export_results([theirs(ours, with_autoattack)], tmp_path / "info")
    assert path == tmp_path / "info" / "cifar-10" / "Linf" / "pairing-0-8_of_255.json"
    document = json.loads(path.read_text())
    known = {"number_forward_passes", "dataset", "architecture", "eps", "clean_acc", "autoattack_acc", "unreliable"}
    by_hand = {"link", "name", "authors", "additional_data", "venue", "reported"}
    assert set(document) == known | by_hand | {"footnote", "external"}
    assert {document[name] for name in by_hand} == {None}
    assert (document["eps"], document["clean_acc"]) == ("8/255", "91.23")
    assert (document["autoattack_acc"], document["external"]) == ("75.00", "66.67")  # of 12
    assert document["unreliable"] is False
    assert "12 of them" in document["footnote"]
    (named,) = export_results([theirs(ours, with_autoattack)], tmp_path / "info", "cifar10")
    assert json.loads(named.read_text())["dataset"] == named.parts[-3] == "cifar10"


def test_what_cannot_be_exported_is_refused(ours: Path, tmp_path: Path) -> None:
    whole = theirs(ours, with_autoattack)
    for paths, message in (([whole, ours], "--suite full"), ([whole, whole], "pairing-0-8_of_255")):
        with pytest.raises(InputError, match=message):
            export_results(paths, tmp_path / "info")
    assert not (tmp_path / "info").exists()
