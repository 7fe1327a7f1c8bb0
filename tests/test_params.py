"""`params.yaml` and the commands that DVC makes of it: mistakes named before anything runs, values passed on whole."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import attack.cli
import stylize.cli.main
import train.cli
from stylize.cli.main import check_params
from stylize.console import InputError
from stylize.console.params import FORBIDDEN, check_set_name, read_section

PROJECT = Path(__file__).parents[1]
Params = dict[str, Any]
GRID: dict[str, list[Any]] = {
    "method": ["pairing", "normal"],
    "arch": ["small", "resnet18"],
    "set": ["swirls"],
    "seed": [0, 1],
}
CARRIED = (
    *("my set", "it's", "a,b;c:d!e", "a(b)c", "[red]x", "{a}", "<b>", "a|b&c", "100%", "#1", "*?", "-x", "~", "^"),
    *("ünï", "日本", "🎨", "a+b=c_d", "x" * 100, "true", "1", "null"),
)
NOT_CARRIED = (
    *("", " a", "a ", "x" * 101, "é" * 51, "a\nb", "esc\x1b[31m", "a\u202eb", "..", ".hidden", "a/b", "a@b"),
    *(f"a{letter}b" for letter in FORBIDDEN),
    *(1, 1.5, True, None, ("a", "b")),
)


def check_all(path: Path) -> None:
    """Check a file as the pipeline's first stage does."""
    check_params(stylize.cli.main.app, path)
    train.cli.check_params(path)
    attack.cli.check_params(path)


def given(change: str, value: object) -> Params:
    """Return the project's own parameters with one changed, named by keys and dots; `...` removes it."""
    params: Params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    *path, last = change.split(".")
    section = params
    for key in path:
        section = section[key]
    section[last] = value
    if value is ...:
        del section[last]
    return params


def write(folder: Path, params: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params, allow_unicode=True))
    return path


def test_the_project_s_own_parameters_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    check_all(Path("params.yaml"))


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        ("train.models.pairing.method", "pairng", "pairing: --method is 'pairng': choose one of normal, stylized"),
        ("train.models.pairing.method", None, "method is None: give a value"),
        ("train.models.pairing.method", ..., "train.models.pairing: Missing option '--method'"),
        ("train.models.pairing.arch", "resnet43", "Unknown architecture 'resnet43'"),
        (
            "train.models.pairing.shards",
            "data/shards/swirl",
            "'data/shards/swirl', which there is not: choose",
        ),
        ("train.models.pairing.shards", ..., "pairing.shards is missing: choose from data/shards/swirls"),
        ("train.models.pairing.metod", "normal", "train.models.pairing: No such option.*--metod"),
        ("train.models.pairing", "pairing", "train.models.pairing is 'pairing': give keys and values"),
        ("train.models", ["pairing"], r"train.models is \['pairing'\]: give keys and values"),
        ("train.styles", ["swirls"], "train has no key 'styles': there are grid, models, options"),
        ("train.options.epoch", 3, "train.options: No such option.*--epoch.*--epochs"),
        ("train.options.epochs", "many", r"'--.*valid.*\(it is 'many'\)"),
        ("train.options.epochs", 2.5, r"'--.*valid.*\(it is 2.5\)"),
        ("train.options.epochs", [1, 2], r"train.options: epochs is \[1, 2\]: give one value"),
        ("train.options.epochs", True, "train.options: epochs is True: give a value"),
        ("train.options.split-batchnorm", 1, "train.options: split-batchnorm is 1: give true or false"),
        ("train.options.sync-batchnorm", False, "sync-batchnorm is False: give `no-sync-batchnorm: true`"),
        ("train.options.no-sync-batchnorm", True, None),
        ("train.models.pairing.seed", [0, 1], r"train.models.pairing: seed is \[0, 1\]: give one value"),
        ("train.models.pairing.arch", "timm/resnet9999", "train.models.pairing: timm has no model 'resnet9999'"),
        ("train.models.pairing.arch", "timm/resnet18", None),
        ("stylize.options.size", [32, 64], r"stylize.options: size is \[32, 64\]: give one value"),
        ("stylize.style_sets.swirls.style", [], r"style_sets.swirls: style is \[\]: give a list of values"),
        (
            "stylize.style_sets.swirls.style",
            ["dots", None],
            "style_sets.swirls: style is .*None.*give a list of values",
        ),
        ("data.source", "photos", "data: There is no data set 'photos'"),
        ("data.source", "imagenet100:photos", "data: There is no data set 'imagenet100:photos'"),
        ("data.source", "photos/{0..3}.tar", "data: There is no tar photos/0.tar"),
        ("train.options.epochs", 0, "train.options: --epochs is 0: give 1"),
        ("train.options.epochs", None, "train.options: epochs is None: give a value, or remove the line"),
        ("train.options.batch-size", 1, "train.options: --batch-size is 1: give 2"),
        ("train.options.learning-rate", "0,1", r"'--.*valid.*\(it is '0,1'\)"),
        ("train.options.preset", "best", "--preset is 'best'"),
        ("train.options.schedule", "step", "--schedule is 'step': choose one of cosine, linear, constant"),
        ("train.options", {"lambda": {"a": 1}}, "lambda is {'a': 1}: give a value"),
        ("train.options", [1], r"train.options is \[1\]: give keys and values"),
        ("train", ..., "params.yaml: train is None: give keys and values"),
        ("stylize.style_sets.marble", {"style": "marbel"}, "style_sets.marble: There is no style 'marbel'.*swirls"),
        ("stylize.style_sets.marble", None, "style_sets.marble is None: give keys and values"),
        ("stylize.style_sets.marble", {"styles": "marble"}, "style_sets.marble: No such option.*--styles"),
        ("stylize.style_sets.marble", {"style": ["dots", "marble"], "alpha": 2}, "--alpha is 2"),
        ("stylize.style_sets.marble", {"style": ["dots", "marble"], "retry-failed": True}, None),
        ("stylize.style_sets", ["swirls"], r"stylize.style_sets is \['swirls'\]: give keys and values"),
        ("stylize.options.size", 4, "--size is 4"),
        ("stylize.options.size", "64px", r"'--.*valid.*\(it is '64px'\)"),
        ("stylize.option", {}, "stylize has no key 'option'"),
        ("stylize.style_sets.theirs", {"shards": "x"}, "style_sets.theirs has shards already: move it to stylize.imp"),
        ("stylize.imported", ..., "stylize.imported is None: give keys and values"),
        ("stylize.imported", ["theirs"], r"stylize.imported is \['theirs'\]: give keys and values"),
        ("stylize.imported.theirs", "x", "imported.theirs is 'x': give keys and values"),
        ("stylize.imported.theirs", {}, "imported.theirs is {}: give `shards: FOLDER` alone"),
        ("stylize.imported.theirs", {"shards": 3}, "imported.theirs is {'shards': 3}: give `shards: FOLDER` alone"),
        ("stylize.imported.theirs", {"shards": "x", "style": "dots"}, "give `shards: FOLDER` alone"),
        ("stylize.imported.theirs", {"shards": "$HOME"}, "give `shards: FOLDER` alone, without any of"),
        ("stylize.imported.a/b", {"shards": "x"}, "stylize.imported has the name 'a/b', which DVC cannot carry"),
        ("stylize.imported.theirs", {"shards": "absent"}, "imported.theirs: there is no folder absent: fetch it"),
        ("data.source", ..., "data: source is None"),
        ("data.source", 10, "data: source is 10"),
        ("data.sed", 1, "data: No such option.*--sed"),
        ("data.test-fraction", 2, "data: --test-fraction is 2.0"),
        ("data.out", "images.zip", "data: out cannot be given here"),
        ("data.data", "shapes", "data: data cannot be given here"),
        ("stylize.options.out", "shards", "stylize.options: out cannot be given here"),
        ("stylize.options.dry-run", True, "stylize.options: dry-run cannot be given here"),
        ("train.grid", ..., "train.grid is None"),
        ("train.grid.seed", ..., "train.grid has arch, method, set: give method, arch, set, seed"),
        ("train.grid.size", [32], "train.grid has .*size: give method, arch, set, seed"),
        ("train.grid.seed", 0, "train.grid.seed is 0: give a list"),
        ("train.grid.seed", [[0]], r"train.grid.seed is \[\[0\]\]: give a list"),
        ("train.grid.seed", [0, 0], r"train.grid.seed is \[0, 0\]: give each value once"),
        (
            "train.grid.method",
            ["normal", "pairng"],
            r"train.grid.pairng-\w+-swirls-0: --method is 'pairng'",
        ),
        ("train.grid", GRID | {"arch": ["timm/resnet18"]}, "train.grid has the name 'pairing-timm/resnet18-swirls-0'"),
        (
            "train.grid",
            GRID | {"set": ["dots"]},
            "'data/shards/dots', which there is not: choose from",
        ),
        ("train.grid", GRID, None),
        ("train.options.out", "models", "train.options: out cannot be given here"),
        ("attack.options.model", "m.safetensors", "attack.options: model cannot be given here"),
        ("attack.options.help", True, "attack.options: help cannot be given here"),
        ("attack.shared.seed", -1, "attack.shared: --seed is -1"),
        ("train.models", {}, "train.models is empty"),
        ("data.seed", "x", r"'--.*valid.*\(it is 'x'\)"),
        ("attack.options.image", 5, "attack.options: No such option.*--image"),
        ("attack.options.step-size", "1/255", r"'--.*valid.*\(it is '1/255'\)"),
        ("attack.options.steps", 0, "attack.options: --steps is 0: give 1 or more"),
        ("attack.option", {}, "attack has no key 'option'"),
        ("report.shards", ["data/shards/swirl"], "report.shards names 'data/shards/swirl', which there is not"),
        ("attack.shared.shards", "data/shards/swirl", "attack.shared.shards names 'data/shards/swirl', which there"),
        ("attack.shared.suite", "full", "attack.shared has no 'suite'"),
        ("attack.options.images", 9, "attack.options has 'images': give it in attack.shared"),
        ("attack.shared.epsilon", ["8/256/1"], "--epsilon is '8/256/1'"),
        ("report.shards", ["data/shards/swirls"], None),
        ("report.shard", "x", "report has no key 'shard'"),
        ("report.paper", True, None),
        ("report.paper", "yes", "report: paper is 'yes'"),
    ],
)
def test_a_wrong_value_is_named_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, value: object, message: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(Path(), given(change, value))
    if message is None:
        check_all(path)
        return
    with pytest.raises(InputError, match=message) as caught:
        check_all(path)
    assert str(caught.value).startswith("params.yaml: ")
    assert "\n" not in str(caught.value)


def test_the_parameters_in_the_page_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_shard_folder: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_shard_folder("data/imported/theirs")
    Path("data/paintings").mkdir()
    Image.new("RGB", (64, 64), "navy").save("data/paintings/starry.jpg")
    params: Params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    blocks = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs/pipeline.md").read_text(), re.DOTALL)
    for block in blocks:
        for section, values in yaml.safe_load(block).items():
            params[section] |= values
        check_all(write(Path(), params))
    assert {"style_sets", "imported", "models", "grid"} <= params["stylize"].keys() | params["train"].keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "is not YAML"),
        ("train: {a: 1, a: 2}", "is not YAML.*duplicate"),
        ("", "train is None"),
        ("- train", "train is None"),
        ("train: 3", "train is 3"),
    ],
)
def test_other_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_section(tmp_path / "params.yaml", "train")
    with pytest.raises(InputError, match="cannot be read"):
        read_section(tmp_path, "train")


@pytest.mark.parametrize("name", NOT_CARRIED, ids=repr)
def test_style_sets_that_dvc_cannot_carry_are_refused(name: object) -> None:
    with pytest.raises(InputError, match=re.escape(repr(name))):
        check_set_name(name, "params.yaml: stylize.style_sets")


def test_the_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("options: {step-size: 1e-4, on: yes}")
    assert read_section(tmp_path / "params.yaml", "options") == {"step-size": 1e-4, "on": "yes"}


def test_pictures_that_dvc_shares_are_brought_where_they_are_missing(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Path("data/paintings/starry.png")
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64), "navy").save(picture)
    write(Path(), given("stylize.style_sets.starry", {"style": ["dots", str(picture)]}))
    for command in (("init", "--no-scm"), ("add", str(picture.parent))):
        subprocess.run(["dvc", *command, "--quiet"], check=True)
    shutil.rmtree(picture.parent)  # as in an experiment's own folder
    check_all(Path("params.yaml"))
    assert picture.is_file()
    shutil.rmtree(picture.parent)
    shutil.rmtree(".dvc/cache")  # as in a clone
    with pytest.raises(InputError, match=f"style_sets.starry.*`dvc pull {picture}`"):
        check_all(Path("params.yaml"))


def test_what_dvc_lock_records_as_made_may_be_made_of_what_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = given("data.source", "photos")
    params["stylize"]["style_sets"]["swirls"]["style"] = "starry.jpg"
    path, sections = write(Path(), params), params["stylize"]
    made = {
        "data": {"data": params["data"]},
        "stylize@swirls": {f"stylize.{name}": sections[name] for name in ("options",)}
        | {"stylize.style_sets.swirls": sections["style_sets"]["swirls"]},
    }
    lock = {"stages": {name: {"cmd": "", "params": {"params.yaml": values}} for name, values in made.items()}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    check_all(path)
    for change, section in (("source", params["data"]), ("style", sections["style_sets"]["swirls"])):
        before = section[change]
        section[change] = "other"
        with pytest.raises(InputError, match=r"There is no .*'other'"):
            check_all(write(Path(), params))
        section[change] = before


COMMANDS = """
import json, sys
from dvc.repo import Repo
repo = Repo.init(".", no_scm=True)
print(json.dumps({stage.addressing: stage.cmd for stage in repo.index.stages}))
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the commands that DVC makes of `dvc.yaml` where names and paths hold every odd letter."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy(PROJECT / "dvc.yaml", folder)
    params = given("data.source", SOURCE)
    params["stylize"]["style_sets"] = {name: {"style": STYLE} for name in CARRIED}
    params["train"]["grid"] = GRID
    common = {"method": "pairing", "arch": "resnet18"}
    params["train"]["models"] = {name: {**common, "shards": f"data/shards/{name}"} for name in CARRIED}
    params["attack"]["shared"]["shards"] = f"data/shards/{CARRIED[0]}"
    params["report"]["shards"] = [f"data/shards/{name}" for name in CARRIED[:2]]
    write(folder, params)
    for name in CARRIED:
        check_set_name(name, "params.yaml")
    done = subprocess.run([sys.executable, "-c", COMMANDS], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


SOURCE = 'my "photos" it\'s $HOME `id` \\x [red] 日本'
STYLE = 'O\'Keeffe $1 "sun".jpg'


@pytest.fixture(scope="module")
def words(stages: dict[str, Any]) -> Callable[[str], list[str]]:
    """Return a function from a stage's name to its command's words, as a shell passes them."""

    def split(stage: str) -> list[str]:
        shown = subprocess.run(
            ["sh", "-c", r"printf '%s\0' " + stages[stage]], capture_output=True, text=True, check=True
        )
        return shown.stdout.split("\0")[:-1]

    return split


def test_paths_reach_the_commands_as_they_are(words: Callable[[str], list[str]]) -> None:
    assert SOURCE in words("data")
    assert {f"data/shards/{name}" for name in CARRIED[:2]} <= set(words("report"))
    assert f"data/shards/{CARRIED[0]}" in words("transfer")
    assert STYLE in words(f"stylize@{CARRIED[0]}")


@pytest.mark.parametrize("name", CARRIED)
def test_style_sets_reach_the_commands_as_they_are(words: Callable[[str], list[str]], name: str) -> None:
    assert words(f"stylize@{name}")[5] == f"data/shards/{name}"
    assert {f"data/shards/{name}", f"data/models/{name}"} <= set(words(f"train@{name}"))
    assert {f"data/models/{name}/model.safetensors", f"data/results/{name}.json"} <= set(words(f"attack@{name}"))


def test_a_grid_is_a_stage_for_every_combination(words: Callable[[str], list[str]], stages: dict[str, Any]) -> None:
    names = {f"{method}-{arch}-swirls-{seed}" for method, arch, _, seed in product(*GRID.values())}
    for stage in ("train-grid", "attack-grid"):
        assert {name.partition("@")[2] for name in stages if name.startswith(f"{stage}@")} == names
    given = words("train-grid@normal-resnet18-swirls-1")
    assert given[given.index("--out") + 1] == "data/models/normal-resnet18-swirls-1"
    values = {
        name: given[len(given) - given[::-1].index(name)] for name in ("--method", "--arch", "--shards", "--seed")
    }
    assert list(values.values()) == ["normal", "resnet18", "data/shards/swirls", "1"]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_shard_folder: Callable[..., Path]) -> Path:
    """Return an imported set's folder, where every model learns from it, in the folder of the pipeline."""
    monkeypatch.chdir(tmp_path)
    folder = make_shard_folder("data/imported/theirs")
    params = given("stylize.imported.theirs", {"shards": "data/imported/theirs"})
    for own in [*params["train"]["models"].values(), params["attack"]["shared"]]:
        own["shards"] = "data/imported/theirs"
    params["report"]["shards"] = ["data/imported/theirs"]
    params["stylize"]["style_sets"] = {}
    write(tmp_path, params)
    return folder


def test_models_may_learn_from_an_imported_set(imported: Path) -> None:
    check_all(Path("params.yaml"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: (folder / "train-000001.tar").unlink(), r"is damaged \(train-000001.tar: missing\)"),
        (
            lambda folder: (folder / "test-000000.tar").write_bytes(b"cut"),
            "test-000000.tar: 3 bytes, the manifest says",
        ),
        (lambda folder: (folder / "notes.txt").touch(), "notes.txt: not named in the manifest"),
    ],
)
def test_an_imported_set_is_looked_at(imported: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(imported)
    with pytest.raises(InputError, match=f"^params.yaml: stylize.imported.theirs: .*{message}"):
        check_all(Path("params.yaml"))
