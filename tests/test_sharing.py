"""The commands of docs/sharing.md, run as they stand there: one makes, a colleague trains, another project imports."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from tests.test_pipeline import PROJECT, clone_project, draw_images, small_parameters

STORIES = re.findall(r"```sh\n(.*?)```", (PROJECT / "docs" / "sharing.md").read_text(), re.DOTALL)
GIT = {f"GIT_{who}_{what}": "tester@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def tell(story: str, folder: Path, **names: Path) -> None:
    """Run a story's commands one after the other; the first that fails ends them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **GIT, "PATH": path, **{name: str(value) for name, value in names.items()}}
    command = ["bash", "-e", "-c", story]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{story}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a clone of this repository, for a handful of images."""
    draw_images(tmp_path / "images", per_class=8)
    return clone_project(tmp_path, small_parameters(tmp_path / "images"))


@pytest.mark.slow
def test_the_page_s_stories(project: Path, tmp_path: Path) -> None:
    makes, trains, imports, changes, pulls, updates = STORIES
    tell(makes, project, REMOTE=tmp_path / "remote")
    shutil.rmtree(tmp_path / "images")  # nobody downstream has them
    tell(trains, tmp_path, PROJECT=project)
    assert (tmp_path / "clone/data/models/pairing/model.safetensors").is_file()
    assert not (tmp_path / "clone/data/images.zip").exists()
    tell("dvc repro --allow-missing train@pairing", tmp_path / "clone")
    tell(imports, tmp_path, PROJECT=project)
    assert verify_shards(tmp_path / "other/data/imported/swirls") == []

    params = yaml.safe_load((project / "params.yaml").read_text())
    params["stylize"]["style_sets"]["swirls"]["style"] = ["swirls", "dots"]
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    tell(changes, project)
    tell("git stash --quiet", tmp_path / "clone")  # dvc.lock, of what was trained there
    tell(pulls, tmp_path / "clone")
    trained = [folder / "data/models/pairing/model.safetensors" for folder in (project, tmp_path / "clone")]
    assert trained[0].read_bytes() == trained[1].read_bytes()
    tell(updates, tmp_path / "other")
    assert len(read_manifest(tmp_path / "other/data/imported/swirls").spec["styles"]) == 2


@pytest.mark.slow
def test_an_imported_set_is_verified_and_trained_from_in_the_pipeline(project: Path, tmp_path: Path) -> None:
    tell(STORIES[0], project, REMOTE=tmp_path / "remote")
    tell("git clone --quiet $PROJECT mine", tmp_path, PROJECT=project)
    mine = tmp_path / "mine"
    tell("dvc import $PROJECT data/shards/swirls -o data/imported/theirs && git add data", mine, PROJECT=project)
    params = yaml.safe_load((mine / "params.yaml").read_text())
    params["stylize"] |= {"style_sets": {}, "imported": {"theirs": {"shards": "data/imported/theirs"}}}
    for own in [*params["train"]["models"].values(), params["attack"]["shared"]]:
        own["shards"] = "data/imported/theirs"
    params["report"]["shards"] = ["data/imported/theirs"]
    (mine / "params.yaml").write_text(yaml.safe_dump(params))
    tell("dvc repro params imported@theirs train@pairing", mine)
    assert (mine / "data/models/pairing/model.safetensors").is_file()
    assert not (mine / "data/images.zip").exists()
    assert [path.name for path in (mine / "data/shards").iterdir()] == [".gitignore"]
