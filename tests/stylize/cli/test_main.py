import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from stylize.shards.manifest import read_manifest
from stylize.sources.shapes import CLASS_NAMES

Run = Callable[..., tuple[int, str, str]]


COMMANDS = ("", "shards", "images", "upload", "verify", "info", "preview", "cue-conflict", "fit-decoder", "weights")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    code, text, _ = run(*filter(None, [command]), "--help")
    assert code == 0
    assert "Usage:" in text
    assert command in text


@pytest.mark.parametrize("program", ["stylize", "train", "attack"])
def test_every_program_and_package_says_its_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    monkeypatch.setattr("sys.argv", [program, "--version"])
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"{program}.__main__").main()
    assert (caught.value.code or 0, capsys.readouterr().out) == (0, f"{program} {version('stylized-pairing')}\n")
    assert importlib.import_module(program).__version__ == version("stylized-pairing")


def test_help_is_as_wide_as_the_terminal_and_offers_completion(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    lines = run("--help")[1].splitlines()
    assert max(map(len, lines)) > 100
    assert any("--install-completion" in line for line in lines)
    assert any("publish" in line and "`stylize shards --only`" in line for line in lines)


HEAVY = {"torch", "torchvision", "scipy", "matplotlib"}


@pytest.mark.parametrize("commands", ["stylize.cli.main", "train.cli", "attack.cli"])
def test_no_help_waits_for_large_packages(commands: str) -> None:
    """It takes some seconds to import them, and every command's module is loaded to list the commands."""
    code = f"import sys, {commands}; print(*({HEAVY!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "\n"


def test_shards_verify_info_and_preview(run: Run, tmp_path: Path, class_folders: Path) -> None:
    out = tmp_path / "[/odd] name"
    arguments = ["--style", "dots", "--data", class_folders, "--size", 16, "--limit", 3, "--dtype", "float32"]
    code, text, _ = run("shards", *arguments, "--out", out)
    assert code == 0
    assert f"{out}: 3 training pairs and 3 test images in 2 shards" in text
    assert "Warning" not in text
    manifest = read_manifest(out)
    assert manifest.flagged == ()
    assert (manifest.spec["styles"][0]["name"], manifest.spec["size"], manifest.spec["alpha"]) == ("dots", 16, 1.0)
    code, text, _ = run("verify", out)
    assert (code, "no defects" in text) == (0, True)
    code, text, _ = run("info", out)
    assert (code, "2: cat, dog" in text, "1: dots" in text) == (0, True, True)
    assert manifest.spec["decoder_sha256"] in text
    assert "None" not in text
    code, text, _ = run("preview", "--shards", out, "-o", "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (code, f"{sheet.width} × {sheet.height} pixels" in text) == (0, True)
    (out / "train-000000.idx").unlink()
    assert (run("index", out)[0], (out / "train-000000.idx").is_file()) == (0, True)
    code, text, _ = run("verify", "--quick", out)
    assert (code, "no defects in manifest and sizes" in text) == (0, True)
    (out / "notes.txt").write_text("foreign")
    code, text, _ = run("verify", out)
    assert (code, "notes.txt: not named in the manifest" in text) == (1, True)


def test_shapes_are_the_default_data(run: Run) -> None:
    code, _, _ = run("shards", "--style", "dots", "--size", 16, "--limit", 1, "--dtype", "float32")
    assert code == 0
    assert read_manifest(Path("data/shards/dots")).class_names == list(CLASS_NAMES)


def test_a_dry_run_writes_nothing(
    run: Run, tmp_path: Path, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["shards", "--data", class_folders, "--style", "dots", "--size", 16, "--limit", 3, "--out", "out"]
    before = sorted(tmp_path.rglob("*"))
    code, text, _ = run(*arguments, "--dry-run")
    assert (code, sorted(tmp_path.rglob("*"))) == (0, before)
    plan, advice = text.splitlines()
    assert advice.startswith("Stylizing images of 16 pixels at their own size")
    assert plan.startswith("out: 6 images in 2 shards, about 0.0 MB of ")
    assert ("images/s; nothing was written" in text, "Warning" in text) == (True, False)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))
    assert "Warning: the disk is too small" in run(*arguments, "--dry-run")[1]
    assert advice in run(*arguments)[1]
    assert advice not in run(*arguments)[1]
    assert run(*arguments, "--dry-run")[1] == "out: finished, nothing to do\n"
    assert run(*arguments, "--dry-run", "--retry-failed")[1] == "out: finished, nothing to do\n"
    (class_folders / "train/cat/more.png").write_bytes((class_folders / "train/cat/000.png").read_bytes())
    assert "give --retry-failed" in run(*arguments, "--dry-run")[2]
    assert run(*arguments, "--dry-run", "--retry-failed")[1].startswith("out: at most 6 images in 2 shards")
    code, _, error = run(*arguments, "--alpha", 0.5, "--dry-run")
    assert (code, "holds shards made with other options" in error) == (2, True)


def test_pairs_that_look_wrong_are_named(run: Run, class_folders: Path) -> None:
    for path in sorted(class_folders.glob("test/*/*.png")):
        path.write_bytes((class_folders / "train/cat/000.png").read_bytes())
    code, text, _ = run("shards", "--data", class_folders, "--style", "dots", "--size", 16, "--out", "out")
    assert code == 0
    assert text.count("the same file is in train") == 4
    assert run("info", "out")[1].count("the same file is in train") == 4


def test_images(run: Run, class_folders: Path, tmp_path: Path) -> None:
    code, text, _ = run("images", "--data", class_folders)
    assert (code, "data/images.zip: 16 images" in text) == (0, True)
    assert (tmp_path / "data/images.zip").is_file()


def test_preview_of_pictures(run: Run, class_folders: Path, tmp_path: Path) -> None:
    picture = class_folders / "train/cat/000.png"
    code, _, _ = run("preview", picture, "--style", "dots", "--size", 32, "-o", "sheet.png")
    assert code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("shards --style plaid --data images", "There is no style 'plaid'"),
        ("shards --style broken.png --data images", "The style broken.png is not a picture"),
        ("shards --style empty --data images", "empty holds no pictures"),
        ("shards", "give --style swirls"),
        ("shards --size 64 --out here", "in here: give --style swirls"),
        ("shards --data absent", "There is no data set 'absent'"),
        ("shards --data empty", "empty holds no pictures"),
        ("shards --data broken.png", "broken.png is a single file and no zip"),
        ("shards --data images --test-fraction 1", "--test-fraction is 1.0"),
        ("images --data images --test-fraction nan", "--test-fraction is nan"),
        ("shards --data images --codec gif", "--codec is 'gif'"),
        ("shards --data images --transfer textures", "--transfer is 'textures'"),
        ("shards --data images --style dots --dtype int8", "--dtype is 'int8'"),
        ("shards --data images --executor spark", "--executor is 'spark': give local or ray"),
        ("shards --data images --executor ray --only 1/2", "--only makes a part in this process"),
        ("shards --data images --style dots --decoder broken.png", "broken.png is not a decoder"),
        ("images --data absent", "There is no data set 'absent'"),
        ("verify absent", "absent is not a finished shard folder"),
        ("verify broken.png", "broken.png is not a finished shard folder"),
        ("verify damaged", "manifest.json is damaged"),
        ("verify http://127.0.0.1:1/shards", "http://127.0.0.1:1/shards/manifest.json cannot be used"),
        ("upload absent s3://bucket/shards", "absent is not a finished shard folder"),
        ("info absent", "absent is not a finished shard folder"),
        ("info damaged", "manifest.json is damaged"),
        ("preview", "Give either pictures to stylize or --shards"),
        ("preview broken.png --shards damaged", "Give either pictures to stylize or --shards"),
        ("preview --shards absent", "absent is not a finished shard folder"),
        ("preview absent.png --style dots", "absent.png does not exist"),
        ("preview broken.png --style dots", "broken.png is not a picture"),
        ("preview images/train/cat --style dots --size 16 -o sheet.xyz", "sheet.xyz cannot be written"),
        ("preview images/train/cat --style dots --size 16 -o absent/sheet.png", "absent/sheet.png cannot be written"),
        ("fit-decoder --content absent --style dots -o decoder.safetensors", "absent does not exist"),
        ("fit-decoder --content images --style dots --preset refine -o d.safetensors", "give its file with --start"),
        ("fit-decoder --content images --style plaid -o decoder.safetensors", "plaid does not exist"),
    ],
)
def test_mistakes_exit_with_2_and_one_line_and_write_nothing(
    run: Run, tmp_path: Path, make_class_folders: Callable[..., Path], arguments: str, message: str
) -> None:
    make_class_folders(tmp_path / "images", train=2, test=2)
    (tmp_path / "broken.png").write_bytes(b"<html>")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/manifest.json").write_text(json.dumps({"format_version": 1}))
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments.split())
    printed = out.splitlines()
    if "http://" in arguments:  # what is asked for again says so, and nothing else is printed
        printed = [line for line in printed if not line.endswith("Trying again.")]
    assert (code, printed) == (2, [])
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        ("shards --data images --alpha 1.5", "1"),
        ("shards --data images --alpha nan", ""),
        ("shards --data images --size 15", "16"),
        ("shards --data images --work-size 0", "16"),
        ("shards --data images --limit 0", "1"),
        ("shards --data images --styles-per-image 0", "1"),
        ("shards --data images --seed -1", "0"),
        ("shards --data images --quality 0", "1"),
        ("preview images --size 0", "16"),
        ("cue-conflict --out out --per-class 0", "1"),
        ("cue-conflict --out out --alpha 2", "1"),
    ],
)
def test_numbers_out_of_range_exit_with_2_and_name_option_and_limit(
    run: Run, tmp_path: Path, arguments: str, limit: str
) -> None:
    code, out, err = run(*arguments.split())
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])
    assert arguments.split()[-2] in err.splitlines()[-1]
    assert limit in err.splitlines()[-1]


def test_a_folder_that_cannot_be_named_so_is_a_mistake(run: Run, class_folders: Path) -> None:
    code, _, err = run("shards", "--data", class_folders, "--style", "dots", "--out", "o" * 300)
    assert (code, "(File name too long)" in err, "Traceback" in err) == (2, True, False)


def test_an_unusable_image_ends_the_run_and_is_named(run: Run, class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "train/cat/999.png").write_bytes(b"<html>")
    arguments = ["shards", "--data", class_folders, "--style", "dots", "--size", 16, "--out", "out"]
    code, _, err = run(*arguments)
    assert (code, "train/cat/999.png is not a picture" in err, "Traceback" in err) == (2, True, False)
    assert not (tmp_path / "out").exists()
    code, text, _ = run(*arguments, "--max-failures", 1)
    assert (code, "1 image failed, see failures.jsonl" in text) == (0, True)
    (class_folders / "train/cat/999.png").write_bytes((class_folders / "train/cat/000.png").read_bytes())
    code, text, _ = run(*arguments, "--retry-failed")
    assert (code, "out: 13 training pairs" in text, "failed" in text) == (0, True, False)
