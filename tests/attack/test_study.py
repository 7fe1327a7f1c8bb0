"""The study's answer: what each measure counts, and which word an interval earns."""

import importlib.util
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from studies.cifar10 import answer as cells
from train.loading import split_validation
from train.model_file import load_model
from train.pairs import PairedShards

PROJECT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "studies" / "claims" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load("answer")


def test_words(study: ModuleType) -> None:
    for low, high, between, word in (
        (1, 3, (0, inf), "supported"), (-3, -1, (0, inf), "refuted"), (-1, 3, (0, inf), "open"),
        (-4, 4, (-5, 5), "supported"), (6, 9, (-5, 5), "refuted"), (-9, -6, (-5, 5), "refuted"),
        (4, 6, (-5, 5), "open"), (0, 0, (0, inf), "open"),
    ):  # fmt: skip
        claim = study.Claim("C", "", "a", "b", "weak", *between)
        assert study.judge(claim, low, high) == word


def test_the_whole_answer(study: ModuleType, earlier: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Pairing keeps all images along the whole path, normal training loses all at the first step; two seeds each."""
    results, shape = tmp_path / "results", tmp_path / "shape"
    results.mkdir()
    shape.mkdir()
    for name, kept, accuracy in (("pairing", 1, 0.70), ("normal", 0, 0.72)):
        for seed in (0, 1):
            document = earlier([[1, kept, kept]] * 50, accuracy + 0.01 * seed, name)
            document["clean"]["images"] = 10_000
            (results / f"{name}-{seed}.json").write_text(json.dumps(document))
            records = [{"predicted": kept, "shape": 1}] * 30
            (shape / f"{name}-{seed}.json").write_text(json.dumps({"records": records}))
    study.main(results, shape, tmp_path / "answer")
    found = {
        (each["claim"], each["measure"]): each for each in json.loads((tmp_path / "answer/answer.json").read_text())
    }
    assert set(found) == {("C1", "weak"), ("C1", "strong"), ("C5", "clean"), ("C6", "shape")}
    # Linear from 1 to 0 over the first of two steps: a quarter of the height is left, so 75 points between them.
    assert found["C1", "weak"]["difference"] == pytest.approx(75, abs=0.5)
    assert found["C1", "strong"]["difference"] == 0  # 2/255 is short of the first step
    assert found["C6", "shape"]["difference"] == 100
    clean = found["C5", "clean"]
    means = np.array([0.705, 0.725])
    half = 1.96 * sqrt(sum(means * (1 - means)) / 10_000 + 2 * 0.005**2)  # two seeds 0.01 apart: variance of the mean
    assert clean["difference"] == pytest.approx(-2)
    assert clean["high"] - clean["low"] == pytest.approx(200 * half)
    assert [found[key]["word"] for key in sorted(found)] == ["open", "supported", "open", "supported"]
    assert "| pairing | 2 | 70.5 (70.0 to 71.0) |" in (tmp_path / "answer/models.md").read_text()
    models = study.read_models(results, shape)
    first = models["pairing"][0]
    models["pairing"][0] = first._replace(result=replace(first.result, epsilons=(2 / 255, 4 / 255)))
    models["normal"] = models["normal"][:1]
    assert study.models_table(models).splitlines() == [
        "| models | seeds | clean | L∞ 2/255 | L∞ 4/255 | by shape |",
        "| --- | --- | --- | --- | --- | --- |",
        "| normal | 1 | 72.0 |  |  | 0.0 |",
        "| pairing | 2 | 70.5 (70.0 to 71.0) | 100.0 (seeds: 1) | 100.0 (seeds: 1) | 100.0 (100.0 to 100.0) |",
    ]
    assert (
        "| C6 | it learns shape | pairing − normal | shape | +100.0 [+100.0, +100.0] | 2 and 2, 30 | **supported** |"
        in (tmp_path / "answer" / "answer.md").read_text()
    )


def test_the_figure_shows_every_answer_with_its_interval(tmp_path: Path) -> None:
    shown = [("C1", "supported", 3.0, 1.0, 5.0), ("C2", "refuted", -4.0, -6.0, -2.0), ("C3", "open", 0.0, -1.0, 1.0)]
    names = ("claim", "word", "difference", "low", "high")
    answers = [dict(zip(names, each, strict=True), compared="a − b", measure="weak") for each in shown]
    axes, other = load("figure").draw({"one": answers, "two": answers[1:]}).axes
    assert (axes.get_title(), other.get_title()) == ("one", "two")
    assert [label.get_text()[:2] for label in axes.get_yticklabels()] == ["C1", "C2", "C3"]
    _, *lines = axes.get_lines()
    intervals, points = lines[::2], lines[1::2]
    assert [tuple(line.get_xdata()) for line in intervals] == [(low, high) for *_, low, high in shown]
    assert [tuple(line.get_xdata()) for line in points] == [(difference,) for _, _, difference, *_ in shown]
    assert len({line.get_color() for line in points}) == 3
    assert [tuple(line.get_xdata()) for line in other.get_lines()[1::2]] == [(-6.0, -2.0), (-1.0, 1.0)]
    assert [tuple(line.get_ydata()) for line in other.get_lines()[1::2]] == [(1, 1), (2, 2)]
    (tmp_path / "answer.json").write_text(json.dumps(answers))
    load("figure").main([tmp_path / "answer.json"], tmp_path / "answer.png")
    assert (tmp_path / "answer.png").stat().st_size > 1000


def test_each_kind_of_copies_is_weighed_against_the_default(
    earlier: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    results, shape = tmp_path / "results", tmp_path / "shape"
    results.mkdir()
    shape.mkdir()
    for name, kept in (("one", 0), ("normal", 0), ("work96", 1)):
        (results / f"{name}-0.json").write_text(json.dumps(earlier([[1, kept, kept]] * 50)))
        (shape / f"{name}-0.json").write_text(json.dumps({"records": [{"predicted": 1, "shape": 1}] * 30}))
    (tmp_path / "agreement.json").write_text(json.dumps({"work96": {"agreement": 0.25}}))
    load("stylizations").main(results, shape, tmp_path / "agreement.json", tmp_path / "answer")
    found = json.loads((tmp_path / "answer" / "stylizations.json").read_text())
    assert [(each["compared"], each["measure"], each["word"]) for each in found] == [
        ("work96 − one", measure, word)
        for measure, word in (("clean", "open"), ("weak", "supported"), ("strong", "open"), ("shape", "open"))
    ]
    _, _, normal, default, line = (tmp_path / "answer" / "stylizations.md").read_text().splitlines()
    assert (normal.split(" | ")[0], normal.count("[")) == ("| normal", 0)
    assert default.count("[") == 0
    assert line.startswith("| work96 | 1 | 25 | 75.0 | 100.0 | 100.0 |")
    assert line.count("**") == 2


def test_agreement_is_that_of_a_loop_over_the_held_out_images(
    make_shard_folder: Callable[..., Path], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    shards = make_shard_folder(train=40, test=12, styles_per_image=2)
    paths = [make_model(shards, f"normal-{seed}", seed=seed) for seed in (0, 1)]
    load("agreement").main([path.parent for path in paths], [shards], tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())[shards.name]
    samples = PairedShards(shards, "train")
    agreeing, right = [], []
    for seed, path in enumerate(paths):
        model, _ = load_model(path)
        _, held_out = split_validation(samples.keys, 0.1, seed)
        for index in held_out.tolist():
            called = [int(model(image[None].float() / 255).argmax()) for image in samples[index][0]]
            agreeing += [called[0] == other for other in called[1:]]
            right += [int(samples.labels[index]) == other for other in called[1:]]
    assert found == {"agreement": np.mean(agreeing), "accuracy": np.mean(right), "images": 4}


def test_errors_on_corrupted_images_are_means_over_severities_and_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, blurred in (("0", (0.2, 0.4)), ("1", (0.4, 0.6))):
        records = [{"corruption": "blur", "error": {"share": share}} for share in blurred]
        records.append({"corruption": "jpeg", "error": {"share": 0.1}})
        mean = sum(record["error"]["share"] for record in records) / 3  # type: ignore[index]
        document = {"records": records, "clean_error": {"share": 0.1}, "mean_corruption_error": {"mean": mean}}
        (tmp_path / f"pairing-{seed}.json").write_text(json.dumps(document))
    load("corruptions").main(tmp_path)
    assert capsys.readouterr().out.splitlines()[2] == "| pairing | 2 | 10.0 | 40.0 | 10.0 | 30.0 (23.3 to 36.7) |"


def test_the_documents_give_the_answers_as_they_are_stored() -> None:
    names = ("study.md", "study-appendix.md")
    document = "".join((PROJECT / "docs" / name).read_text(encoding="utf-8") for name in names)
    folders = [PROJECT / "studies" / name / "answer" for name in ("claims", "mobilenet", "resnet18", "shapes")]
    assert load("elsewhere").beside(folders) in document
    tables = [
        f"{name}/answer/{table}.md" for name in ("claims", "fine-tuning", "work-size") for table in ("answer", "models")
    ]
    for table in (*tables, "work-size/answer/corruptions.md"):
        assert (PROJECT / "studies" / table).read_text(encoding="utf-8") in document
    stylizations = (PROJECT / "studies/stylizations/answer/stylizations.md").read_text(encoding="utf-8")
    assert stylizations in (PROJECT / "docs" / "decoder.md").read_text(encoding="utf-8")


def test_the_answer_from_cells(earlier: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    for name, kept in (("pairing", 1), ("normal", 0), ("stylized", 1)):
        for seed in (0, 1):
            cell = tmp_path / f"{name}-{seed}"
            cell.mkdir()
            document = earlier([[kept, kept, kept]] * 50, 0.7, name)
            document["protocol"]["epsilons"] = [2 / 255]
            (cell / "attack.json").write_text(json.dumps(document))
            (cell / "shape.json").write_text(json.dumps({"records": [{"predicted": kept, "shape": 1}] * 30}))
            with tarfile.open(tmp_path / f"{cell.name}.tar.xz", "w:xz") as tar:
                tar.add(cell, cell.name)
    cells.main(tmp_path, tmp_path / "answer")
    found = {each["claim"]: each for each in json.loads((tmp_path / "answer/answer.json").read_text())}
    assert set(found) == {"C1", "C3", "C5", "C6"}
    assert (found["C1"]["difference"], found["C1"]["word"]) == (100, "supported")
    assert (found["C3"]["difference"], found["C3"]["word"]) == (0, "open")
    assert found["C6"]["word"] == "supported"
    assert "| pairing | 2/255 | 100 | 0 |" in (tmp_path / "answer/autoattack.md").read_text()
