"""How models are grouped, named, ranked and compared, and the curves of what attacks left."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attack import read_result, write_report
from attack.evaluation.result import metrics
from attack.report.groups import compare_models, group_results
from attack.report.page import security_table

Maker = Callable[..., Path]
SMALL = {"epsilons": (1e-4,)}  # so small that models differ by their clean errors


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=30)


def edited(path: Path, change: Callable[[dict[str, Any]], object], name: str = "") -> Path:
    """Write a changed copy of a result beside it."""
    document = json.loads(path.read_text())
    change(document)
    copy = path.with_name(f"{name or 'edited'}-{path.name}")
    copy.write_text(json.dumps(document))
    return copy


def with_attacks(robust: bool) -> Callable[[dict[str, Any]], None]:
    """Return a change after which every attack with a radius broke every image, or none."""

    def change(document: dict[str, Any]) -> None:
        for attack in document["attacks"]:
            if attack["epsilon"] is not None:
                attack["robust"] = [int(robust and right) for right in document["images"]["correct"]]

    return change


def own(path: Path, reference: str) -> Path:
    """Write a result as of a model of one's own."""

    def change(document: dict[str, Any]) -> None:
        document["model"]["path"] = reference
        document["model"]["card"] |= {"method": "external", "arch": reference.partition(":")[2], "seed": -1}

    return edited(path, change, reference.replace(":", "-"))


def titles(paths: list[Path], **options: Any) -> list[str]:
    return [group.title for group in group_results([read_result(path) for path in paths], **options)]


def labels(paths: list[Path], **options: Any) -> list[list[str]]:
    """Return the labels of the models that are compared with each other."""
    groups = group_results([read_result(path) for path in paths], **options)
    return [[entry.label for entry in part.entries] for group in groups for part in group.parts]


def test_a_model_without_any_robust_image_is_ranked_below_one_that_has_some(shards: Path, make_result: Maker) -> None:
    broken = edited(make_result(shards, "normal", seed=1), with_attacks(False))
    robust = edited(make_result(shards, "adversarial"), with_attacks(True))
    document = json.loads(broken.read_text())
    document["clean"] |= {"accuracy": 1.0, "correct": document["clean"]["images"]}
    broken.write_text(json.dumps(document))
    assert labels([broken, robust]) == [["adversarial", "normal"]]


def test_models_of_one_method_are_told_apart(shards: Path, make_result: Maker) -> None:
    seeds = [make_result(shards, "pairing", seed=seed, **SMALL) for seed in (0, 1)]
    normal = make_result(shards, "normal", seed=2, **SMALL)
    assert set(labels([*seeds, normal])[0]) == {"pairing, seed 0", "pairing, seed 1", "normal"}
    assert pairs([*seeds, normal]) == {frozenset({"pairing", "normal"})}  # seeds of one method are one row
    again = edited(seeds[1], lambda document: document["model"]["card"].update(seed=0))
    assert pairs([seeds[0], again]) == {frozenset({"pairing (pairing-0)", "pairing (pairing-1)"})}
    weighed = [with_weight(path, weight) for path, weight in ((seeds[0], 1.0), (seeds[1], 1.0), (seeds[1], 3.0))]
    assert pairs(weighed) == {frozenset({"pairing, lambda 1", "pairing, lambda 3"})}  # two seeds against one


def pairs(paths: list[Path]) -> set[frozenset[str]]:
    """Return the names that are compared."""
    (group,) = group_results([read_result(path) for path in paths])
    return {frozenset({found.difference.first, found.difference.second}) for found in compare_models(group)}


def with_weight(path: Path, weight: float) -> Path:
    """Write a result of a model that was trained with this λ."""
    return edited(path, lambda document: document["model"]["card"]["config"].update(pairing_weight=weight), f"{weight}")


def test_models_of_ones_own_are_named_and_compared(shards: Path, make_result: Maker) -> None:
    one, two = (make_result(shards, "normal", seed=seed, **SMALL) for seed in (0, 1))
    found = labels([own(one, "mine:net"), own(two, "mine:wide_net")])
    assert sorted(found[0]) == ["net", "wide_net"]
    assert sorted(labels([own(one, "mine:net"), own(two, "theirs:net")])[0]) == ["mine:net", "theirs:net"]


def test_architectures_are_one_group_and_compared_where_asked(shards: Path, make_result: Maker) -> None:
    paths = [
        make_result(shards, "normal", **SMALL),
        make_result(shards, "pairing", seed=1, **SMALL),
        make_result(shards, "stylized", seed=2, arch="resnet18", **SMALL),
    ]
    assert titles(paths) == ["shards"]
    small = {"mobilenet_v3_small normal", "mobilenet_v3_small pairing"}
    assert sorted(map(len, labels(paths))) == [1, 2]
    assert small in [set(part) for part in labels(paths)]
    assert [set(part) for part in labels(paths, across=True)] == [small | {"resnet18 stylized"}]


def test_groups_are_named_by_what_differs(shards: Path, make_result: Maker) -> None:
    path = make_result(shards, "normal", suite="paper")
    other = edited(path, lambda document: document["model"]["card"].update(class_names=["a", "b"]))
    assert sorted(titles([path, other])) == ["shards, 2 classes", "shards, 3 classes"]


@pytest.mark.usefixtures("undrawn")
def test_models_that_answer_alike_are_left_out_and_counted(shards: Path, make_result: Maker, tmp_path: Path) -> None:
    paths = [make_result(shards, method, **SMALL) for method in ("normal", "pairing")]
    page = write_report(paths, tmp_path / "report").read_text(encoding="utf-8")
    assert "Left out: 2 comparisons" in page  # at the radius and along the path
    assert "[+0.0, +0.0]" not in page


def test_one_correction_counts_all_radii_and_the_path(shards: Path, make_result: Maker) -> None:
    methods = enumerate(("normal", "pairing"))
    paths = [make_result(shards, method, seed=seed, epsilons=(1e-4, 2e-4)) for seed, method in methods]
    (group,) = group_results([read_result(path) for path in paths])
    found = compare_models(group)
    assert [each.at.split(",")[0] for each in found][-1] == "paper’s path"
    assert len(found) == 3
    assert min(each.difference.adjusted for each in found) == pytest.approx(
        min(1.0, 3 * min(each.difference.p for each in found))
    )
    assert {each.seeds for each in found} == {1}


@pytest.mark.usefixtures("undrawn")
def test_the_security_curve_is_what_attacks_left(shards: Path, make_result: Maker, tmp_path: Path) -> None:
    path = make_result(shards, "normal")
    distances = np.linspace(0.001, 0.05, 12)

    def with_minimal_norm(document: dict[str, Any]) -> None:
        right = document["images"]["correct"]
        far = [float(distance) if ok else 0.0 for distance, ok in zip(distances, right, strict=True)]
        attack = {**document["attacks"][0], "name": "minimal-norm", "distance": far, "robust": [0] * 12}
        document["attacks"] = [*(one for one in document["attacks"] if one["kind"] == "noise"), attack]
        document["verdicts"] = document["verdicts"][:1]

    plain, dense = edited(path, lambda document: None, "plain"), edited(path, with_minimal_norm, "dense")
    write_report([plain], tmp_path / "plain")
    result = read_result(plain)
    rows = read_csv(tmp_path / "plain" / "security.csv")
    assert [float(row["epsilon"]) for row in rows] == pytest.approx([0, 2 / 255, 8 / 255], rel=1e-5)
    assert float(rows[0]["accuracy"]) == pytest.approx(np.mean(result.clean), rel=1e-5)
    robust = [np.mean(cell.robust) for cell in result.cells]
    assert [float(row["accuracy"]) for row in rows[1:]] == pytest.approx(robust, rel=1e-5)

    write_report([dense], tmp_path / "dense")
    result = read_result(dense)
    far = np.where(result.clean, distances, 0)
    assert metrics(result)["median_linf"] == pytest.approx(np.median(far), abs=1e-5)
    noise = [attack for attack in result.attacks if attack.kind == "noise"]
    for row in read_csv(tmp_path / "dense" / "security.csv"):
        epsilon = float(row["epsilon"]) * (1 + 1e-5)
        left = np.array(result.clean) & (distances > epsilon)
        for attack in noise:
            if attack.epsilon is not None and attack.epsilon <= epsilon:
                left &= np.array(attack.robust)
        assert float(row["accuracy"]) == pytest.approx(left.mean(), rel=1e-5)
    assert float(row["accuracy"]) == 0
    assert len(rows) < 61
    (group,) = group_results([result])
    table = security_table(group)
    assert table.rows[0][1:] == [f"{255 * np.median(far):.2f}/255", f"{255 * float(row['epsilon']):.2f}/255"]
    assert list(table.header[1:]) == ["L∞, median smallest change", "L∞, nothing left from"]
    assert security_table(group_results([read_result(plain)])[0]).rows == []  # no minimal norms, no medians


def test_seeds_share_a_security_curve(shards: Path, make_result: Maker) -> None:
    paths = [make_result(shards, "pairing", seed=seed, **SMALL) for seed in (0, 1)]
    (group,) = group_results([read_result(path) for path in paths])
    ((entry, mean),) = group.security_lines("linf")
    assert entry.label == "pairing, 2 seeds"
    one, two = (group.security_curve(each, "linf") for each in group.entries)
    assert one.accuracy != two.accuracy
    for index, accuracy in enumerate(mean.accuracy):
        assert accuracy == pytest.approx((one.accuracy[index] + two.accuracy[index]) / 2)
        assert mean.low[index] == min(one.low[index], two.low[index])
        assert mean.high[index] == max(one.high[index], two.high[index])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
