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
import typer
import yaml

from attack.attacks import AttackResult, Norm
from attack.evaluation.result import attack_document
from studies.cifar10 import answer as cells
from studies.cifar10.cells import read_cells
from studies.claims.answer import CLAIMS
from train.config import with_preset
from train.dataset import PairedShards
from train.loading import split_validation
from train.models import load_model
from train.run import check_copies

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


def attack_result(name: str, norm: Norm, epsilon: float, robust: list[bool]) -> AttackResult:
    distance = tuple(0.0 if one else 0.001 for one in robust)
    return AttackResult(name, "white-box", norm, epsilon, tuple(robust), distance, 1, 1, 1.0, {}, {})


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
    result = models["pairing"][0].result
    met = (attack_result("pgd-ce", "linf", radius, [True] * 50) for radius in (2 / 255, 4 / 255))
    models["pairing"][0] = models["pairing"][0]._replace(result=replace(result, attacks=(*result.attacks, *met)))
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
    folders = [PROJECT / "studies" / name / "answer" for name in ("cifar10", "work-size", "claims")]
    assert load("elsewhere").beside(folders) in document
    studies = ("cifar10", "claims", "fine-tuning", "work-size")
    tables = [f"{name}/answer/{table}.md" for name in studies for table in ("answer", "models")]
    for table in (*tables, "cifar10/answer/autoattack.md", "work-size/answer/corruptions.md"):
        assert (PROJECT / "studies" / table).read_text(encoding="utf-8") in document
    stylizations = (PROJECT / "studies/stylizations/answer/stylizations.md").read_text(encoding="utf-8")
    assert stylizations in (PROJECT / "docs" / "decoder.md").read_text(encoding="utf-8")


def test_the_stored_answer_is_that_of_the_finished_cells(tmp_path: Path) -> None:
    folder = PROJECT / "studies" / "cifar10"
    cells.main(folder / "results", tmp_path)
    picture = (folder / "answer" / "security.png").read_bytes()
    assert (PROJECT / "docs" / "security.png").read_bytes() == picture
    for path in tmp_path.glob("*.md"):
        assert path.read_text(encoding="utf-8") == (folder / "answer" / path.name).read_text(encoding="utf-8")


def attacks(kept: int, l2: bool) -> list[dict[str, Any]]:
    """Return attacks as a result holds them: PGD leaves all 50 images or none, AutoAttack 45 of them."""
    radii: list[tuple[Norm, float]] = [("linf", 2 / 255), ("linf", 8 / 255)]
    radii += [("l2", 0.5)] if l2 else []
    kept_by = {"pgd-ce": [bool(kept)] * 50, "autoattack": [bool(kept)] * 45 + [False] * 5}
    found = [attack_result(name, *radius, robust) for name, robust in kept_by.items() for radius in radii]
    return [attack_document(attack) for attack in found]


@pytest.fixture
def write_cell(earlier: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., None]:
    """Return a function that writes a cell as the pipeline does; `kept`: its model withstands, and goes by shape."""

    def write(method: str, seed: int, kept: int, dtype: str = "fp32", first: int = 0) -> None:
        folder = tmp_path / f"{method}-{seed}"
        folder.mkdir()
        document = earlier([[1, 1, 1]] * 50, 0.7, method)
        document["attempts"] += attacks(kept, l2=seed == 0)
        document["images"]["keys"] = [str(first + number) for number in range(50)]
        seen = {"shape": 1, "texture": 0, "predicted": kept, "shape_rank": 2.0 - kept, "texture_rank": 4.0}
        records = [{"key": str(key), **seen, "counted": key < 20 + seed} for key in range(30)]
        blur = [{"corruption": "blur", "error": {"share": 0.2}}]
        errors = {"records": blur, "clean_error": {"share": 0.1}, "mean_corruption_error": {"mean": 0.2}}
        record = {"settings": {"dtype": dtype}, "hardware": {"cpu": "a processor", "device": "cpu"}}
        parts = {"attack": document, "shape": {"records": records}, "corruptions": errors, "record": record}
        for name, part in parts.items():
            (folder / f"{name}.json").write_text(json.dumps(part))
        with tarfile.open(tmp_path / f"{folder.name}.tar.xz", "w:xz") as tar:
            tar.add(folder, folder.name)

    return write


def test_the_answer_from_cells(write_cell: Callable[..., None], tmp_path: Path) -> None:
    for name, kept in (("pairing", 1), ("normal", 0), ("stylized", 1)):
        for seed in (0, 1, 2):
            write_cell(name, seed, kept, "bf16" if seed else "fp32", first=50 * seed)
    write_cell("pairing", 3, 0)  # there is no other model of this seed to compare it with
    cells.main(tmp_path, tmp_path / "answer")
    found = {each["claim"]: each for each in json.loads((tmp_path / "answer/answer.json").read_text())}
    assert list(found) == ["C1", "C3", "C5", "C6"]
    assert {tuple(each["models"]) for each in found.values()} == {(3, 3)}
    assert (found["C1"]["difference"], found["C1"]["word"]) == (90, "supported")
    assert (found["C3"]["difference"], found["C3"]["word"]) == (0, "open")
    assert (found["C6"]["word"], found["C6"]["images"]) == ("supported", 20)  # those that both normal models know
    text = {path.stem: path.read_text() for path in (tmp_path / "answer").glob("*.md")}
    half = (found["C1"]["high"] - found["C1"]["low"]) / 2
    assert f"| C1 | 3 | 150 | ± {half:.1f} | ± 2.7 |" in text["half-widths"]
    assert "| pairing | 4 | 70.0 (70.0 to 70.0) | 67.5 (0.0 to 90.0) |" in text["models"]
    assert "| 90.0 (seeds: 1) |" in text["models"]
    assert text["models"].startswith("| models | seeds | clean | L∞ 2/255 | L∞ 8/255 | L2 0.5 | by shape |")
    assert "| stylized | 3 | L∞ 8/255 | 150 | 15 |" in text["autoattack"]
    assert "| stylized | 1 | L2 0.5 | 50 | 5 |" in text["autoattack"]
    assert "| normal | 3 | 20 | 0.0 | 100.0 | 0.0 | 0.500 | 0.250 |" in text["shape"]
    assert "| stylized | 3 | 20 | 100.0 | 0.0 | 100.0 | 1.000 | 0.250 |" in text["shape"]
    assert "| normal | 3 | 10.0 | 20.0 | 20.0 (20.0 to 20.0) |" in text["corruptions"]
    assert "| 1 | 3 | bf16 | cpu, a processor |" in text["seeds"]
    assert "over up to 150 test" in text["authors"]
    assert text["authors"].count("pairing − ") == 2
    assert (tmp_path / "answer/security.png").read_bytes().startswith(b"\x89PNG")
    few = [cell for cell in read_cells(tmp_path) if cell.seed < 2]
    assert {each.word for each in cells.answers(few)} == {"open"}


def test_cells_that_cannot_be_compared_are_refused(write_cell: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="dvc repro"):
        read_cells(tmp_path)
    write_cell("pairing", 1, 1)
    write_cell("normal", 1, 0, "bf16")
    with pytest.raises(typer.BadParameter, match=r"seed 1 .*normal in bf16, pairing in fp32"):
        read_cells(tmp_path)
    (tmp_path / "normal-1.tar.xz").unlink()
    (tmp_path / "normal-1").rename(tmp_path / "elsewhere")
    write_cell("normal", 1, 0, first=50)
    with pytest.raises(typer.BadParameter, match="seed 1 "):
        read_cells(tmp_path)


def test_every_cell_of_the_study_can_be_trained() -> None:
    folder = PROJECT / "studies" / "cifar10"
    stages, params = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("dvc", "params"))
    methods = {name: each["do"]["vars"][0] for name, each in stages["stages"].items() if "vars" in each.get("do", {})}
    assert {claim.first for claim in CLAIMS} | {claim.second for claim in CLAIMS} <= methods.keys()
    few = {name for name, each in stages["stages"].items() if each.get("foreach") == "${first_seeds}"}
    assert few == set(cells.YARDSTICKS)
    for name, each in methods.items():
        given = {**params["train"], **each["method"]}
        given |= {"epsilon": 8 / 255} if "epsilon" in given else {}
        assert each["name"] == name
        check_copies(with_preset(**given, shards=Path("shards"), out=Path("out")), copies=1)
