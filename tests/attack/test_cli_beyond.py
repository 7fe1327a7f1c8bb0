"""`attack shape-bias`, `corruptions` and `explain` as a user meets them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attack.cli import main
from stylize.jobs.cue_conflict import TEXTURE_FREE, make_cue_set, open_cue_set
from stylize.jobs.spec import ShardOptions

Maker = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]
OPTIONS = ShardOptions(size=16, codec="png")
MODULE = """
from torch import nn
def mean(classes=3):
    return nn.Sequential(nn.Conv2d(3, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def ten(): return mean(10)
"""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Return a function that runs `attack` in `tmp_path`, where `module_of_a_user.py` lies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("module_of_a_user.py").write_text(MODULE)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attack", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        return int(stopped.value.code or 0), output.out, output.err

    return run


def test_shape_bias(call: Call) -> None:
    make_cue_set(open_cue_set(OPTIONS, per_class=2), Path("conflict"))
    make_cue_set(open_cue_set(OPTIONS, per_class=1, kind=TEXTURE_FREE), Path("plain"))
    arguments = ("--model", "module_of_a_user:ten", "--shards", "conflict", "--texture-free", "plain")
    code, text, _ = call("shape-bias", *arguments, "--out", "bias.json")
    document = json.loads(Path("bias.json").read_text())
    assert code == 0
    assert f"{document['shape_accuracy']['successes']} of 20" in text
    for line in ("shape bias:", "texture accuracy:", "neither:", "texture-free accuracy:", "result: bias.json"):
        assert line in text
    assert document["model"]["path"] == "module_of_a_user:ten"


def test_corruptions(call: Call, make_shard_folder: Maker) -> None:
    arguments = ("--model", "module_of_a_user:mean", "--shards", make_shard_folder(test=6), "--out", "errors.json")
    code, text, _ = call("corruptions", *arguments)
    assert code == 0
    assert "gaussian noise 1: " in text
    assert "mean corruption error (home-made): " in text
    np.save("fog.npy", np.zeros((10, 16, 16, 3), np.uint8))
    np.save("labels.npy", np.tile([0, 2], 5))
    code, text, _ = call("corruptions", *arguments, "--corruptions", "fog.npy", "--labels", "labels.npy")
    assert (code, "fog 5: " in text, "(published arrays): " in text) == (0, True, True)


def test_explain(call: Call, make_shard_folder: Maker, make_model: Maker) -> None:
    pytest.importorskip("captum")
    shards = make_shard_folder(test=12)
    models = [word for seed in (0, 1) for word in ("--model", make_model(shards, f"model {seed}", seed=seed))]
    options = ("--shards", shards, "--images", 2, "--parts", 4, "--samples", 10)
    for name in ("one.png", "two.png"):
        code, text, _ = call("explain", *models, *options, "--out", name)
        assert (code, f"{name}: 2 images, 2 models" in text) == (0, True)
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    with Image.open("one.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("shape-bias", "--model", "module_of_a_user:mean"), "no texture of another class"),
        (("shape-bias", "--model", "module_of_a_user:mean", "--batch-size", 0), "--batch-size is 0"),
        (("corruptions", "--model", "module_of_a_user:ten"), "returns 1 × 10 numbers an image, not 3 logits"),
        (("corruptions", "--model", "module_of_a_user:mean", "--images", 0), "--images is 0"),
        (("corruptions", "--model", "module_of_a_user:mean", "--labels", "x.npy"), "belong together"),
        (("corruptions", "--model", "missing.safetensors"), "missing.safetensors does not exist"),
        (("explain", "--model", "module_of_a_user:nothing"), "has no function 'nothing'"),
        (("explain", "--model", "module_of_a_user:mean", "--samples", 0), "--samples is 0"),
    ],
)
def test_mistakes(call: Call, make_shard_folder: Maker, words: tuple[object, ...], message: str) -> None:
    code, _, error = call(*words, "--shards", make_shard_folder(), "--out", "out")
    assert (code, message in error, "Traceback" in error) == (2, True, False)
    assert not Path("out").exists()
