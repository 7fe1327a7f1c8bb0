"""The whole pipeline on a handful of images, by the real `dvc` in a fresh repository, and its shards by a remote."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylize.shards.verify import verify_shards
from stylize.sources.shapes import CLASS_NAMES, draw_shape

PROJECT = Path(__file__).parents[1]
MODELS = ["normal", "pairing"]
KEPT_FOLDERS = ("data/.gitignore", "data/imported/.gitignore", "data/shards/.gitignore")


def run(folder: Path, *command: str) -> str:
    """Run a command with this environment's console scripts first on the path; fail with its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def draw_images(folder: Path, per_class: int) -> None:
    """Write a class-folder data set of three shapes with a train and a test split."""
    for split, count in (("train", per_class), ("test", per_class)):
        for label in range(3):
            target = folder / split / CLASS_NAMES[label]
            target.mkdir(parents=True)
            for number in range(count):
                draw_shape(label + 10 * number, size=32, split=split).picture.save(target / f"{number}.png")


def small_parameters(images: Path) -> dict[str, Any]:
    """Return the project's own parameters, cut down to seconds."""
    params: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["data"]["source"] = str(images)
    params["stylize"]["options"]["size"] = 32
    params["train"]["models"] = {name: params["train"]["models"][name] for name in MODELS}
    params["train"]["options"] |= {"epochs": 1, "batch-size": 8, "workers": 0}
    params["attack"]["shared"] |= {"images": 24, "epsilon": ["8/255"]}
    params["attack"]["options"] |= {"steps": 3}
    return params


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Reproduce the pipeline once in a new repository with a local folder as DVC remote."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (".dvc/config", ".dvc/plots/curves.json", "dvc.yaml", ".dvcignore", *KEPT_FOLDERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    for package in ("stylize", "train", "attack"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    images = tmp_path_factory.mktemp("images")
    draw_images(images, per_class=8)
    (folder / "params.yaml").write_text(yaml.safe_dump(small_parameters(images)))
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "remote", "add", "--default", "shared", str(tmp_path_factory.mktemp("remote")))
    run(folder, "dvc", "repro")
    yield folder
    shutil.rmtree(folder)


def test_every_stage_leaves_its_output(repository: Path) -> None:
    data = repository / "data"
    assert verify_shards(data / "shards" / "swirls") == []
    page = (data / "report" / "index.html").read_text()
    for name in MODELS:
        assert 0 <= json.loads((data / "models" / name / "metrics.json").read_text())["test_accuracy"] <= 1
        assert len(json.loads((data / "results" / f"{name}.json").read_text())["images"]["keys"]) == 24
        assert name in page
    assert "Transfer between models" in page


def test_a_second_reproduction_does_nothing(repository: Path) -> None:
    before = (repository / "dvc.lock").read_bytes()
    assert "up to date" in run(repository, "dvc", "repro")
    assert (repository / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize(
    ("edited", "first"),
    [
        ("attack/report/figures.py", "report"),
        ("attack/attacks/paper_path.py", "attack@"),
        ("train/loop.py", "train@"),
        ("stylize/networks/stylizer.py", "data"),
    ],
)
def test_an_edit_reruns_its_package_and_what_follows(repository: Path, edited: str, first: str) -> None:
    source = (repository / edited).read_text()
    (repository / edited).write_text(source + "# edited\n")
    try:
        stages = [line for line in run(repository, "dvc", "status").splitlines() if line and not line[0].isspace()]
    finally:
        (repository / edited).write_text(source)
    order = ["data", "stylize@", "train@", "attack@", "transfer", "report"]
    changed = {name for name in order if any(stage.startswith(name) for stage in stages)}
    assert first in changed
    assert not changed & set(order[: order.index(first)])


def test_metrics_and_plots_show_each_model(repository: Path) -> None:
    shown = json.loads(run(repository, "dvc", "metrics", "show", "--json"))[""]["data"]
    for name in MODELS:
        assert set(shown[f"data/report/metrics/{name}.json"]["data"]) == {"verdict", "clean", "robust_8_of_255"}
    plots = json.loads(run(repository, "dvc", "plots", "show", "--json"))["data"]
    for norm in ("L2", "L-infinity"):
        (figure,) = plots[f"Paper's attack, {norm} distance"]
        assert figure["type"] == "vega"
        assert '"field": "model"' in json.dumps(figure["content"]) or '"field":"model"' in str(figure["content"])


def test_shards_travel_through_a_remote(repository: Path) -> None:
    shards = repository / "data" / "shards" / "swirls"
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    run(repository, "dvc", "push")
    shutil.rmtree(shards)
    shutil.rmtree(repository / ".dvc" / "cache")
    run(repository, "dvc", "pull", "stylize@swirls")
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
