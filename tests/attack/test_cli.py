"""The command line as a user meets it: exit codes, one line of error, nothing half-written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attack.cli import main
from attack.evaluation import run

Maker = Callable[..., Path]


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=30)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["attack", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_run_then_transfer_then_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards: Path, make_model: Maker, tmp_path: Path
) -> None:
    models = [make_model(shards, name, seed=seed) for seed, name in enumerate(("first", "second"))]
    out, transfer = tmp_path / "normal.json", tmp_path / "transfer.json"
    shared = ("--shards", shards, "--images", 4, "--batch-size", 3, "--epsilon", "4/255")
    path = ("--steps", 3, "--step-size", 0.0005, "--zero-gradient", "minus-one")
    words = ("--model", models[0], "--out", out, "--suite", "quick", "--strong-images", 2)
    assert call(monkeypatch, "run", *words, *shared, *path) == 0
    printed = capsys.readouterr().out
    for words_shown in ("clean accuracy", "L∞ 4/255, n = 2", "near chance", "passed"):
        assert words_shown in printed
    document = json.loads(out.read_text())
    asked = {"suite": "quick", "images": 4, "strong_images": 2, "epsilons": [4 / 255], "batch_size": 3, "seed": 0}
    asked |= {"norm": "linf", "eot": 1, "surrogate": None}
    assert document["protocol"] == asked
    followed = {name: document["path"][name] for name in ("steps", "step_size", "zero_gradient")}
    assert followed == {"steps": 3, "step_size": 0.0005, "zero_gradient": "minus-one"}

    assert call(monkeypatch, "transfer", *models, "--out", transfer, *shared) == 0
    assert call(monkeypatch, "report", out, "--out", out) == 2
    assert "cannot be made" in capsys.readouterr().err
    options = ("--out", tmp_path / "report", "--shards", shards, "--transfer", transfer)
    assert call(monkeypatch, "report", out, *options) == 0
    assert "Transfer between models" in (tmp_path / "report" / "index.html").read_text()


def test_several_models_leave_a_result_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards: Path, make_model: Maker, tmp_path: Path
) -> None:
    files = [make_model(shards, name, seed=seed) for seed, name in enumerate(("one", "two"))]
    places = [tmp_path / name / "model.safetensors" for name in ("first", "second")]
    for file, place in zip(files, places, strict=True):
        place.parent.mkdir()
        file.rename(place)
    words = ("--shards", shards, "--suite", "paper", "--images", 3, "--steps", 2)
    assert (
        call(monkeypatch, "run", "--model", places[0].parent, "--model", places[1], "--out", tmp_path / "r", *words)
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["first.json", "second.json"]
    assert call(monkeypatch, "run", "--model", places[0], "--out", tmp_path / "alone.json", *words) == 0
    several, alone = (json.loads((tmp_path / name).read_text()) for name in ("r/first.json", "alone.json"))
    assert several["path"] | {"seconds": 0} == alone["path"] | {"seconds": 0}
    capsys.readouterr()
    assert call(monkeypatch, "run", *("--model", places[0]) * 2, "--out", tmp_path / "r", *words) == 2
    assert "first" in capsys.readouterr().err


def test_of_several_models_a_missing_one_is_found_first_and_finished_ones_are_kept(
    monkeypatch: pytest.MonkeyPatch, shards: Path, make_model: Maker, tmp_path: Path
) -> None:
    models = [make_model(shards, name, seed=seed) for seed, name in enumerate(("one", "two"))]
    words = ("--out", tmp_path / "r", "--shards", shards, "--suite", "paper", "--images", 3, "--steps", 2)
    assert call(monkeypatch, "run", "--model", models[0], "--model", tmp_path / "missing", *words) == 2
    assert not (tmp_path / "r").exists()

    followed: list[int] = []
    original: Callable[..., object] = run._follow_path

    def interrupt_second(*arguments: object, **options: object) -> object:
        followed.append(1)
        if len(followed) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(run, "_follow_path", interrupt_second)
    both = ("--model", models[0], "--model", models[1], *words)
    assert call(monkeypatch, "run", *both) == 130
    assert call(monkeypatch, "run", *both) == 0
    assert len(followed) == 3  # the first model's path was not followed again
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["one.json", "two.json"]


def test_shards_behind_a_url_are_attacked_alike(
    monkeypatch: pytest.MonkeyPatch, shards: Path, make_model: Maker, tmp_path: Path
) -> None:
    words = ("--model", make_model(shards), "--suite", "paper", "--images", 3, "--steps", 2)
    places = {"local": (shards,), "remote": (shards.as_uri(), "--cache", tmp_path / "cache")}
    for name, place in places.items():
        assert call(monkeypatch, "run", *words, "--out", tmp_path / name, "--shards", *place) == 0
    local, remote = (json.loads((tmp_path / name).read_text()) for name in places)
    for part in ("clean", "path"):
        assert local[part] | {"seconds": 0} == remote[part] | {"seconds": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "missing.safetensors"}, "missing.safetensors"),
        ({"--shards": "missing"}, "stylize shards"),
        ({"--images": "0"}, "--images is 0"),
        ({"--steps": "-1"}, "--steps is -1"),
        ({"--suite": "huge"}, "'huge'"),
        ({"--epsilon": "eight"}, "'eight'"),
        ({"--epsilon": "8"}, "--epsilon is 8.0"),
        ({"--epsilon": "1e400"}, "--epsilon is '1e400'"),
        ({"--step-size": "nan"}, "--step-size is nan"),
        ({"--batch-size": "-1"}, "--batch-size is -1"),
        ({"--zero-gradient": "sideways"}, "'sideways'"),
        ({"--out": "."}, "cannot be written"),
        ({"--out": "file/out.json"}, "cannot be made"),
        ({"--steps": "many"}, "Invalid value"),
        ({"--typo": "1"}, "No such option"),
    ],
)
def test_bad_inputs_of_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shards: Path,
    make_model: Maker,
    tmp_path: Path,
    change: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    options = {"--model": str(make_model(shards)), "--shards": str(shards), "--out": "out.json"} | change
    words = [word for option in options.items() for word in option]

    assert call(monkeypatch, "run", *words) == 2

    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.json.*"))
    assert not (tmp_path / "out.json").exists()


def test_bad_inputs_of_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    for words, message in (
        (["missing.json"], "attack run"),
        (["broken.json"], "not a result"),
        ([], "Missing argument"),
    ):
        assert call(monkeypatch, "report", *words, "--out", "report") == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "report").exists()
