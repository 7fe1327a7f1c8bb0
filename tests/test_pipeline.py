"""The whole pipeline on a handful of images, by the real `dvc` in a clone of this repository, and what others get."""

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylize.shards.verify import verify_shards
from stylize.sources.shapes import CLASS_NAMES, draw_shape

PROJECT = Path(__file__).parents[1]
MODELS = ["normal", "pairing"]
SHARDS = "data/shards/swirls"
GIT = {f"GIT_{who}_{what}": "tester@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(folder: Path, *command: str) -> str:
    """Run a command; fail with its output."""
    done = subprocess.run(command, cwd=folder, env={**os.environ, **GIT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def clone_project(folder: Path, params: dict[str, Any]) -> Path:
    """Return a clone of a bare repository: this one's files in one commit, then uncommitted changes and parameters."""
    if not (PROJECT / ".git").exists():
        pytest.skip("this is not a Git repository")
    run(folder, "git", "init", "--quiet", "--bare", "--initial-branch=main", "bare.git")
    run(folder, "git", "clone", "--quiet", "--bare", str(PROJECT), "history.git")
    files = run(folder / "history.git", "git", "commit-tree", "HEAD^{tree}", "-m", "All files").strip()
    run(folder / "history.git", "git", "push", "--quiet", "../bare.git", f"{files}:refs/heads/main")
    run(folder, "git", "clone", "--quiet", "bare.git", "mine")
    changes = folder / "changes.patch"
    run(PROJECT, "git", "diff", "HEAD", "--binary", f"--output={changes}")
    run(folder / "mine", "git", "apply", "--index", "--allow-empty", str(changes))
    (folder / "mine/params.yaml").write_text(yaml.safe_dump(params))
    run(folder / "mine", "git", "commit", "--quiet", "--all", "--message", "A few images")
    return folder / "mine"


def share(folder: Path, message: str) -> None:
    """Commit and push everything, as docs/sharing.md says."""
    run(folder, "dvc", "push")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)
    run(folder, "git", "push", "--quiet")


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
    params["attack"]["shared"] |= {"images": 6, "epsilon": ["8/255"]}
    params["attack"]["options"] |= {"steps": 3}
    return params


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> Iterator[Path]:
    """Reproduce the pipeline once in a clone of this repository, and share it by a folder as DVC remote."""
    folder = tmp_path_factory.mktemp("clones")
    draw_images(folder / "images", per_class=5)
    mine = clone_project(folder, small_parameters(folder / "images"))
    run(mine, "dvc", "remote", "add", "--default", "team", str(folder / "remote"))
    run(mine, "dvc", "repro")
    share(mine, "Everything")
    yield mine
    shutil.rmtree(folder)


def test_every_stage_leaves_its_output(repository: Path) -> None:
    data = repository / "data"
    assert verify_shards(data / "shards" / "swirls") == []
    page = (data / "report" / "index.html").read_text()
    for name in MODELS:
        assert 0 <= json.loads((data / "models" / name / "metrics.json").read_text())["test_accuracy"] <= 1
        assert len(json.loads((data / "results" / f"{name}.json").read_text())["images"]["keys"]) == 6
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
        assert set(shown[f"data/report/metrics/{name}.json"]["data"]) == {
            "clean", "verdict_8_of_255", "robust_8_of_255", "images_8_of_255",
        }  # fmt: skip
    plots = json.loads(run(repository, "dvc", "plots", "show", "--json"))["data"]
    for norm in ("L2", "L-infinity"):
        (figure,) = plots[f"Paper's attack, {norm} distance"]
        assert figure["type"] == "vega"
        assert '"field": "model"' in json.dumps(figure["content"]) or '"field":"model"' in str(figure["content"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_clone_is_complete_after_a_pull_and_compares_results(repository: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", f"file://{repository.parent}/bare.git", "theirs")
    theirs = tmp_path / "theirs"
    pulled = run(theirs, "dvc", "pull", "stylize@swirls").splitlines()
    assert contents(theirs / SHARDS) == contents(repository / SHARDS)
    assert not (theirs / "data/models/normal").exists()
    assert len(pulled) < 5
    run(theirs, "dvc", "pull")
    assert run(theirs, "dvc", "status").splitlines() == ["Data and pipelines are up to date."]
    assert run(theirs, "git", "status", "--porcelain") == ""
    compare_commits_and_experiments(theirs)


def test_another_project_imports_shards_and_gets_files(repository: Path, tmp_path: Path) -> None:
    bare = f"file://{repository.parent}/bare.git"
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    run(tmp_path, "dvc", "import", bare, SHARDS)
    assert contents(tmp_path / "swirls") == contents(repository / SHARDS)
    run(tmp_path, "dvc", "get", bare, model := "data/models/normal/model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (repository / model).read_bytes()


def compare_commits_and_experiments(theirs: Path) -> None:
    """Change a metric and a parameter in a clone, and look at the differences."""
    metrics, params = theirs / "data/report/metrics/normal.json", theirs / "params.yaml"
    before = json.loads(metrics.read_text())["clean"]
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"clean": 0.125}))
    params.write_text(params.read_text().replace("test-fraction: 0.1", "test-fraction: 0.2"))
    run(theirs, "dvc", "commit", "--force", "report")
    run(theirs, "dvc", "exp", "save", "--name", "second")
    for other in ("second", "workspace"):
        changed = json.loads(run(theirs, "dvc", "metrics", "diff", "--json", "HEAD", other))
        assert changed["data/report/metrics/normal.json"]["clean"] == {
            "old": before, "new": 0.125, "diff": pytest.approx(0.125 - before)
        }  # fmt: skip
    changed = json.loads(run(theirs, "dvc", "params", "diff", "--json", "HEAD"))
    assert changed == {"params.yaml": {"data.test-fraction": {"old": 0.1, "new": 0.2, "diff": 0.1}}}
    assert "data.test-fraction" in run(theirs, "dvc", "exp", "diff", "HEAD", "second")
    shown = list(csv.DictReader(io.StringIO(run(theirs, "dvc", "exp", "show", "--csv"))))
    assert [(row["Experiment"], row["data.test-fraction"]) for row in shown[1:]] == [("", "0.1"), ("second", "0.2")]
    assert shown[-1]["data/report/metrics/normal.json:clean"] == "0.125"
    assert not [column for column in shown[0] if "studies" in column]


def test_every_stage_waits_for_the_check_of_the_parameters() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    (checked,) = (path for out in stages.pop("params")["outs"] for path in out)
    assert [name for name, stage in stages.items() if checked not in stage.get("do", stage)["deps"]] == []


def test_studies_are_a_project_of_their_own(repository: Path) -> None:
    studies = repository / "studies"
    assert [path for path in studies.rglob("*") if path.is_symlink()] == []
    stages = run(studies / "stylizations", "dvc", "stage", "list", "--name-only").split()
    assert {"agreement", "answer", "train@one-0"} <= set(stages)
    pipelines = {path.parent.name: yaml.safe_load(path.read_text())["stages"] for path in studies.glob("*/dvc.yaml")}
    del pipelines["cifar10"], pipelines["stylizations"], pipelines["work-size"]["corruptions"]
    assert all(pipeline == pipelines["claims"] for pipeline in pipelines.values())
