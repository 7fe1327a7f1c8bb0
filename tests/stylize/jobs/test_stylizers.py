"""Code of the user's own as the stylizer: the same runs, records and checks as with the built-in one."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylize.jobs.job import open_job
from stylize.jobs.ray import ShardMaker
from stylize.jobs.run import Part, make_part, make_shards, publish_parts
from stylize.jobs.spec import ShardOptions, plan_shards
from stylize.networks.styles import load_styles
from stylize.networks.stylizer import Pixels
from stylize.shards import Sample, read_shard
from stylize.shards.decode import decode_picture
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from tests.stylize.jobs.contents import contents
from tests.stylize.jobs.own_stylizers import Network, seen

HERE = "tests.stylize.jobs.own_stylizers"
Run = Callable[..., tuple[int, str, str]]


def pairs(out: Path) -> list[Sample]:
    return [sample for path in sorted(out.glob("train-*.tar")) for sample in read_shard(path)]


def pixels(data: bytes) -> Pixels:
    return np.asarray(decode_picture(data))


def test_a_function_is_a_stylizer(run: Run, class_folders: Path, tmp_path: Path) -> None:
    words = ("--data", class_folders, "--codec", "png", "--style", "dots", "--style", "marble", "--out", "out")
    assert run("shards", "--stylizer", f"{HERE}:invert", *words)[0] == 0
    out, styles = tmp_path / "out", load_styles(["dots", "marble"])
    made = pairs(out)
    assert len(made) == 12
    given = {
        image.tobytes(): choice for images, choices, _ in seen for image, choice in zip(images, choices, strict=True)
    }
    for sample in made:
        content = pixels(sample.content)
        assert np.array_equal(pixels(sample.styled[0]), 255 - content)
        assert sample.metadata["styles"] == [styles[given[content.tobytes()]].name]
    assert all(np.array_equal(own, style.array[0]) for own, style in zip(seen[-1][2], styles, strict=True))
    spec = read_manifest(out).spec
    assert (spec["stylizer"]["reference"], spec["stylizer"]["batch_size"], spec["alpha"]) == (
        f"{HERE}:invert",
        16,
        None,
    )
    assert (spec["encoder_sha256"], spec["dtype"], [style["name"] for style in spec["styles"]]) == (
        None, "uint8", ["dots", "marble"],
    )  # fmt: skip
    assert verify_shards(out) == []
    before = contents(out)
    assert "finished already" in run("shards", "--stylizer", f"{HERE}:invert", *words)[1]
    assert contents(out) == before
    code, _, error = run("shards", *words)
    assert code == 2
    assert "--stylizer" in error


def test_seeds_and_strengths_are_handed_to_code_that_takes_them(run: Run, class_folders: Path, tmp_path: Path) -> None:
    words = ("--data", class_folders, "--codec", "png", "--alpha", "0.4:0.7", "--styles-per-image", 2, "--seed", 5)
    assert run("shards", "--stylizer", f"{HERE}:Noise", *words, "--out", "out")[0] == 0
    spec = read_manifest(tmp_path / "out").spec
    assert spec["alpha"] == "0.4:0.7"
    assert spec["styles"] == [{"name": "noise", "sha256": None}]
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("| stylizer | `noise` 1.2 |" in card, "Huang" in card) == (True, False)
    declared = {name: spec["stylizer"][name] for name in ("name", "version", "parameters", "deterministic")}
    assert declared == {"name": "noise", "version": "1.2", "parameters": {"std": 20}, "deterministic": True}
    for sample in pairs(tmp_path / "out"):
        assert (sample.metadata["alpha"], sample.metadata["styles"]) == (None, ["noise", "noise"])
        for k, (copy, alpha) in enumerate(zip(sample.styled, sample.metadata["alphas"], strict=True)):
            digest = hashlib.sha256(f"5:{sample.key}:{k}".encode()).digest()
            assert alpha == round(0.4 + 0.3 * int.from_bytes(digest[8:16], "big") / 2**64, 4)
            noise = np.random.default_rng(int.from_bytes(digest[20:24], "big")).normal(0, 20 * alpha, (32, 32, 3))
            assert np.array_equal(pixels(copy), np.clip(pixels(sample.content) + noise, 0, 255).astype(np.uint8))
    assert verify_shards(tmp_path / "out") == []


def test_parts_and_nodes_make_the_same_shards(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.jobs.spec.SAMPLES_PER_SHARD", 5)
    options = ShardOptions(data=str(class_folders), stylizer=f"{HERE}:Noise")
    job = open_job(options)
    make_shards(job, tmp_path / "whole")
    for number in (1, 2):
        make_part(open_job(options), tmp_path / "parts", Part(number, 2))
    publish_parts(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    maker = ShardMaker(lambda: open_job(options), tmp_path)
    assert maker.open() == job.spec
    plan = next(plan_shards(job.spec, job.source))
    staging = tmp_path / "staging"
    for folder in ("shards", "receipts", "locks"):
        (staging / folder).mkdir(parents=True)
    (staging / "proof").touch()
    with maker.stack:
        maker.make(plan, staging, "proof")
    assert (staging / "shards" / plan.name).read_bytes() == (tmp_path / "whole" / plan.name).read_bytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("floats", ["float64", "uint8"]),
        ("nan", ["float32 with NaN"]),
        ("too_few", ["(1, 224, 224, 3)", "(2, 224, 224, 3)"]),
        ("other_shape", ["(2, 223, 224, 3)"]),
        ("nothing", ["NoneType"]),
        ("raises", ["RuntimeError: no weights", "own_stylizers.py"]),
        ("leaves", ["SystemExit: 3"]),
        ("fickle", ["called again", "deterministic = False"]),
        ("NoBatch", ["batch_size = 0"]),
        ("NoText", ["version = 2", "str"]),
        ("NoJSON", ["parameters", "JSON"]),
        ("NotMade", ["FileNotFoundError: weights.pth"]),
        ("missing", ["'missing'"]),
        ("not_callable", ["'not_callable'"]),
    ],
)
def test_a_wrong_stylizer_is_refused_before_anything_is_made(
    run: Run, class_folders: Path, tmp_path: Path, name: str, words: list[str]
) -> None:
    code, _, error = run("shards", "--stylizer", f"{HERE}:{name}", "--data", class_folders, "--out", "out")
    assert code == 2
    assert error.count("\n") == 1
    assert [word for word in [*words, f"{HERE}:{name}" if name[0].islower() else HERE] if word not in error] == []
    assert list(tmp_path.iterdir()) == [class_folders]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stylizer", "nowhere.module:function"), ["ModuleNotFoundError", "nowhere.module"]),
        (("--stylizer", "module.py"), ["--stylizer", "package.module:function"]),
        (("--stylizer", f"{HERE}:invert", "--work-size", 64), ["--work-size"]),
        (("--stylizer", f"{HERE}:invert", "--transfer", "colours"), ["--transfer"]),
        (("--stylizer", f"{HERE}:invert", "--alpha", 0.5), ["--alpha", "0.5"]),
        (("--stylizer", f"{HERE}:Noise", "--style", "dots"), ["--style", "dots"]),
        (("--alpha", "0.7:0.4"), ["--alpha", "0.7:0.4"]),
        (("--alpha", "0.4:"), ["--alpha", "0.4:"]),
        (("--alpha", "0.4:2"), ["--alpha", "0.4:2"]),
        (("--alpha", "strong"), ["--alpha", "strong"]),
    ],
)
def test_options_that_do_not_fit_are_refused(
    run: Run, class_folders: Path, options: tuple[str, ...], words: list[str]
) -> None:
    code, _, error = run("shards", *options, "--data", class_folders, "--out", "out")
    assert code == 2
    assert [word for word in words if word not in error] == []


def test_an_error_names_the_image(run: Run, class_folders: Path, tmp_path: Path) -> None:
    dark = class_folders / "train" / "dog" / "dark.png"
    Image.new("RGB", (32, 32)).save(dark)
    words = ("--stylizer", f"{HERE}:picky", "--data", class_folders, "--out", "out")
    code, _, error = run("shards", *words)
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert "train/dog/dark.png" in error
    assert "too dark" in error
    dark.unlink()
    assert run("shards", *words)[0] == 0


def test_a_network_is_a_stylizer_and_its_weights_are_recorded(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ShardOptions(data=str(class_folders), stylizer=f"{HERE}:Network")
    first, second = open_job(options).spec.stylizer, open_job(options).spec.stylizer
    assert first == second
    assert first is not None
    assert first["parameters"] == {}
    monkeypatch.setattr(Network, "start", 0.25)
    other = open_job(options).spec.stylizer
    assert other is not None
    assert other["code_sha256"] != first["code_sha256"]


def test_what_draws_without_seeds_may_say_so(class_folders: Path, tmp_path: Path) -> None:
    job = open_job(ShardOptions(data=str(class_folders), stylizer=f"{HERE}:Fickle"))
    assert job.spec.stylizer is not None
    assert job.spec.stylizer["deterministic"] is False
    make_shards(job, tmp_path / "out")
    assert verify_shards(tmp_path / "out") == []


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a stylizer `halve` into the working folder, as a module with a name of its own."""
    monkeypatch.setattr("sys.path", [*sys.path])
    path = tmp_path / f"own_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}.py"
    path.write_text("def halve(images, choice, styles):\n    return images // 2\n")
    return path


def test_a_file_never_chooses_code(run: Run, class_folders: Path, module: Path) -> None:
    reference = f"{module.stem}:halve"
    words = ("--style", "dots", "--data", class_folders, "--codec", "png", "--out", "out")
    assert run("shards", "--stylizer", reference, *words)[0] == 0
    del sys.modules[module.stem]
    code, _, error = run("rederive", "out", "00000003")
    assert (code, module.stem in sys.modules) == (2, False)
    assert f"--stylizer {reference}" in error
    assert run("verify", "out")[0] == 0
    assert module.stem not in sys.modules
    code, output, _ = run("rederive", "out", "00000003", "--stylizer", reference)
    assert (code, "differs by 0 of 255" in output) == (0, True)


def test_code_that_changed_does_not_go_on_with_a_folder(run: Run, class_folders: Path, module: Path) -> None:
    words = ("shards", "--stylizer", f"{module.stem}:halve", "--data", class_folders, "--out", "out", "--limit", 2)
    assert run(*words)[0] == 0
    del sys.modules[module.stem]
    module.write_text(module.read_text().replace("// 2", "// 3"))
    code, _, error = run(*words)
    assert code == 2
    assert "--stylizer" in error
    assert "code_sha256" in error
    key = pairs(class_folders.parent / "out")[0].key
    code, _, error = run("rederive", "out", key, "--stylizer", f"{module.stem}:halve")
    assert code == 2
    assert "another stylizer" in error


def test_a_dry_run_says_what_it_would_take(run: Run, class_folders: Path, tmp_path: Path) -> None:
    code, output, _ = run("shards", "--stylizer", f"{HERE}:invert", "--data", class_folders, "--dry-run")
    assert (code, "16 images in 2 shards" in output) == (0, True)
    assert list(tmp_path.iterdir()) == [class_folders]
