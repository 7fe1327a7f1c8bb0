"""The command line as a user meets it: exit codes, one line of error, nothing half-written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attack.cli import main

Maker = Callable[..., Path]


@pytest.fixture
def shards(make_shard_folder: Maker) -> Path:
    return make_shard_folder(test=30)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["attack", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_run_then_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards: Path, make_model: Maker, tmp_path: Path
) -> None:
    out = tmp_path / "normal.json"
    options = ("--images", 4, "--steps", 3, "--step-size", 0.0005, "--zero-gradient", "minus-one", "--batch-size", 3)
    assert call(monkeypatch, "run", "--model", make_model(shards), "--shards", shards, "--out", out, *options) == 0
    printed = capsys.readouterr().out
    assert "clean accuracy" in printed
    assert "11 of 11 passed" in printed
    protocol = json.loads(out.read_text())["protocol"]
    given = {"images": 4, "steps": 3, "step_size": 0.0005, "zero_gradient": "minus-one", "batch_size": 3, "seed": 0}
    assert {name: protocol[name] for name in given} == given

    assert call(monkeypatch, "report", out, "--out", out) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert call(monkeypatch, "report", out, "--out", tmp_path / "report", "--shards", shards) == 0
    assert (tmp_path / "report" / "index.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "missing.safetensors"}, "missing.safetensors"),
        ({"--shards": "missing"}, "stylize shards"),
        ({"--images": "0"}, "--images is 0"),
        ({"--steps": "-1"}, "--steps is -1"),
        ({"--step-size": "nan"}, "--step-size is nan"),
        ({"--batch-size": "0"}, "--batch-size is 0"),
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
