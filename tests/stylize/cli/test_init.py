"""A pipeline of the user's own, written by the installed package."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import attack.cli
import stylize.cli.main
import train.cli
from stylize.cli.init import init

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"(?:attack|stylize|train)(?:/.*)?")
Run = Callable[..., tuple[int, str, str]]


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def without_code(stages: Any) -> Any:
    """Return stages without the dependencies on this repository's code."""
    if isinstance(stages, dict):
        return {
            name: [one for one in value if not CODE.fullmatch(one)] if name == "deps" else without_code(value)
            for name, value in stages.items()
        }
    return stages


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, make_class_folders: Callable[..., Path], encode: Any, noise: Any
) -> Path:
    folder = tmp_path_factory.mktemp("project")
    make_class_folders(folder / "my photos", 4, 2)
    (folder / "starry night.jpg").write_bytes(encode(noise(1), "JPEG"))
    (folder / "README.md").write_text("mine")
    (folder / ".gitignore").write_text("*.log\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        init("my photos", ["starry night.jpg"])
    return folder


def test_the_stages_are_this_repository_s_without_its_code(project: Path) -> None:
    ours, written = read(ROOT / "dvc.yaml"), read(project / "dvc.yaml")
    text = str(without_code(ours)).replace("data/checked", "data/installed")
    expected = YAML(typ="safe", pure=True).load(text)
    installed, data = written["stages"].pop("installed"), written["stages"]["data"]
    assert installed["cmd"][-1] == "stylize --version > data/installed"
    assert installed["params"] == expected["stages"].pop("params")["params"]
    assert data.pop("deps") == [*expected["stages"]["data"].pop("deps"), "${data.source}"]
    assert written == expected


def test_the_parameters_are_right_and_what_was_there_stays(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    params = project / "params.yaml"
    stylize.cli.main.check_params(stylize.cli.main.app, params)
    train.cli.check_params(params)
    attack.cli.check_params(params)
    written = read(params)
    assert written["data"]["source"] == "my photos"
    assert written["stylize"]["style_sets"] == {"starry-night": {"style": "starry night.jpg"}}
    assert (project / "README.md").read_text() == "mine"
    ignored = (project / ".gitignore").read_text().splitlines()
    assert {"*.log", ".staging/", "/my photos"} <= set(ignored)
    before = {path: path.read_bytes() for path in project.iterdir() if path.is_file()}
    code, _, error = run("init", "--data", "my photos", "--style", "dots")
    assert (code, "dvc.yaml" in error) == (2, True)
    assert {path: path.read_bytes() for path in project.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--data", "absent", "--style", "dots"), "absent"),
        (("--data", "shapes", "--style", "absent.jpg"), "absent.jpg"),
        (("--data", "shapes"), "--style"),
    ],
)
def test_a_mistake_leaves_nothing_behind(run: Run, tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    code, _, error = run("init", *words)
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert named in error


def test_a_data_set_by_name_is_no_dependency(run: Run, tmp_path: Path) -> None:
    assert run("init", "--data", "shapes", "--style", "dots", "--style", "marble")[0] == 0
    assert read(tmp_path / "dvc.yaml")["stages"]["data"]["deps"] == ["data/installed"]
    assert read(tmp_path / "params.yaml")["stylize"]["style_sets"] == {"dots-marble": {"style": ["dots", "marble"]}}
    readme = (tmp_path / "README.md").read_text()
    assert "data/shards/dots-marble" in readme


def clean_environment(folder: Path) -> dict[str, str]:
    """Return the environment of an installed wheel, without the sources, beside the packages that it needs."""
    wheels = folder / "wheels"
    sources = folder / "sources"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in (name for name in names.split("\0") if (ROOT / name).is_file()):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, sources / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(sources)]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in packages))  # what the wheel depends on
    shutil.rmtree(sources)
    path = f"{python.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return {**os.environ, "PATH": path, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}


@pytest.mark.slow
def test_the_wheel_and_init_and_repro_are_the_whole_way(
    tmp_path_factory: pytest.TempPathFactory, make_class_folders: Callable[..., Path], encode: Any, noise: Any
) -> None:
    environment = clean_environment(tmp_path_factory.mktemp("environment"))
    project = tmp_path_factory.mktemp("project")
    make_class_folders(project / "photos", 96, 24)
    (project / "starry.jpg").write_bytes(encode(noise(1), "JPEG"))

    def call(*words: str) -> str:
        done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = call("python", "-c", "import stylize; print(stylize.__file__)")
    assert str(ROOT) not in where
    call("stylize", "init", "--data", "photos", "--style", "starry.jpg")
    call("python", "-m", "dvc", "repro")
    assert "starry" in (project / "data" / "report" / "index.html").read_text()
    again = call("python", "-m", "dvc", "repro")
    assert re.findall(r"Running stage '([^']+)'", again) == ["installed"]
    (metadata,) = Path(where.strip()).parents[1].glob("stylized_pairing-*.dist-info/METADATA")
    metadata.write_text(re.sub(r"(?m)^Version: .*$", "Version: 99.0", metadata.read_text()))
    newer = call("python", "-m", "dvc", "repro", "data")  # another version makes everything again
    assert re.findall(r"Running stage '([^']+)'", newer) == ["installed", "data"]
