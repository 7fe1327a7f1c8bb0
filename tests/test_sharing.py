"""The commands of docs/sharing.md and docs/pipeline.md, run as they stand there, and what people get by them."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards
from tests.test_pipeline import GIT, PROJECT, clone_project, draw_images, run, small_parameters

STORIES, PIPELINE = (
    re.findall(r"```sh\n(.*?)```", (PROJECT / "docs" / page).read_text(), re.DOTALL)
    for page in ("sharing.md", "pipeline.md")
)
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
TRAINS = "Running stage 'train@pairing'"
PYTHON = """#!/bin/sh
# Stands in for `python3 -m venv .venv`: an environment with the commands that are tested, and nothing to install.
mkdir -p .venv/bin
echo 'PATH="{commands}:$PATH"' > .venv/bin/activate
printf '#!/bin/sh\\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


def tell(story: str, folder: Path, **names: str) -> str:
    """Run a story's commands one after the other; the first that fails ends them. Return what they print."""
    home = folder if (folder / "python").exists() else folder.parent
    environment = {**os.environ, **GIT, "PYTHON": f"{home}/python", "HOME": str(home), **names}
    command = ["bash", "-e", "-c", story]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{story}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def team(tmp_path: Path, commands: Path) -> Path:
    """Return a folder with a bare clone of this repository, for a handful of images."""
    folder = tmp_path / "team"
    folder.mkdir()
    (folder / "python").write_text(PYTHON.format(commands=commands))
    (folder / "python").chmod(0o755)
    draw_images(tmp_path / "images", per_class=5)
    run(clone_project(folder, small_parameters(tmp_path / "images")), "git", "push", "--quiet")
    shutil.rmtree(folder / "mine")
    return folder


@pytest.fixture
def names(team: Path, remote: str) -> dict[str, str]:
    """Return what the page's variables stand for."""
    return {"PROJECT": f"file://{team}/bare.git", "REMOTE": remote}


@pytest.fixture(params=["folder", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ssh", "s3"))])
def remote(request: pytest.FixtureRequest, team: Path) -> str:
    """Return a place for DVC's files: a folder, one behind OpenSSH's own server, or a bucket."""
    if request.param == "ssh":
        return f"ssh://{getpass.getuser()}@127.0.0.1:{request.getfixturevalue('port')}{team}/remote"
    if request.param == "s3":
        pytest.importorskip("dvc_s3")
        request.getfixturevalue("store")
        return "s3://bucket/dvc"
    return f"{team}/remote"


@pytest.fixture
def port(tmp_path: Path, team: Path) -> Iterator[int]:
    """Run a server that lets this user in by one key, which the user's settings name; yield its port."""
    if SSHD is None:
        pytest.skip("there is no sshd: install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (team / ".ssh").mkdir()
    (team / ".ssh/config").write_text(f"Host 127.0.0.1\n  IdentityFile {tmp_path}/user\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    settings = {
        "ListenAddress": f"127.0.0.1:{port}", "HostKey": tmp_path / "host", "AuthorizedKeysFile": tmp_path / "user.pub",
        "PidFile": "none", "UsePAM": "no", "StrictModes": "no", "PasswordAuthentication": "no",
        "Subsystem": "sftp internal-sftp",
    }  # fmt: skip
    config = tmp_path / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.PIPE)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.communicate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.skip(f"sshd does not start here: {(server.communicate()[1] or b'').decode()[-200:]}")


def change(params: Path, **sections: dict[str, Any]) -> None:
    """Replace keys of sections of a file of parameters."""
    old = yaml.safe_load(params.read_text())
    params.write_text(yaml.safe_dump(old | {name: old[name] | section for name, section in sections.items()}))


def test_the_page_s_stories(team: Path, names: dict[str, str], tmp_path: Path) -> None:
    shares, trains, imports, gets, changes, pulls, one, updates = STORIES
    tell(shares, team, **names)
    (tmp_path / "images").rename(tmp_path / "away")  # nobody downstream has them
    assert tell(trains, team, **names).count(TRAINS) == 1
    theirs = team / "theirs"
    assert not (theirs / "data/images.zip").exists()
    assert TRAINS not in tell("dvc repro --allow-missing train@pairing", theirs)
    tell(imports + gets, team, **names)
    assert verify_shards(team / "other/data/imported/swirls") == []
    assert verify_shards(team / "other/swirls") == []

    (tmp_path / "away").rename(tmp_path / "images")
    change(team / "mine/params.yaml", stylize={"style_sets": {"swirls": {"style": ["swirls", "dots"]}}})
    assert tell(changes, team / "mine").count(TRAINS) == 1
    assert TRAINS not in tell(pulls, theirs)
    assert contents(theirs / "data/models/pairing") == contents(team / "mine/data/models/pairing")
    assert verify_shards(theirs / "data/shards/swirls") == []
    (theirs / "data/shards/swirls/manifest.json").unlink()
    tell(one, theirs)
    assert len(read_manifest(theirs / "data/shards/swirls").spec["styles"]) == 2
    tell(updates, team / "other")
    assert len(read_manifest(team / "other/data/imported/swirls").spec["styles"]) == 2


@pytest.mark.slow
def test_the_commands_of_the_pipeline_s_page(team: Path, names: dict[str, str]) -> None:
    tell('git clone --quiet "$PROJECT" mine', team, **names)
    mine = team / "mine"
    everyday, again, experiments, shares = PIPELINE
    assert "data/report/metrics/pairing.json" in tell(everyday, mine)
    tell("git add --all && git commit --quiet --message 'The first results'", mine)
    assert "Running stage 'train" not in tell(again, mine)  # the images and the picture are as they were
    assert tell(experiments, mine).count(TRAINS) == 3
    tell("git restore . && dvc checkout", mine)
    tell(shares, mine, **names)
    tell('git clone --quiet "$PROJECT" theirs && cd theirs && dvc pull', team, **names)
    assert contents(team / "theirs/data/results") == contents(mine / "data/results")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("remote", ["folder"], indirect=True)
def test_an_imported_set_is_verified_and_trained_from_in_the_pipeline(team: Path, names: dict[str, str]) -> None:
    tell(STORIES[0], team, **names)
    tell('git clone --quiet "$PROJECT" theirs', team, **names)
    theirs = team / "theirs"
    tell('dvc import "$PROJECT" data/shards/swirls -o data/imported/theirs && git add data', theirs, **names)
    folder = "data/imported/theirs"
    models = yaml.safe_load((theirs / "params.yaml").read_text())["train"]["models"]
    change(
        theirs / "params.yaml",
        stylize={"style_sets": {}, "imported": {"theirs": {"shards": folder}}},
        train={"models": {name: own | {"shards": folder} for name, own in models.items()}},
        attack={"shared": {"shards": folder, "images": 24, "epsilon": ["8/255"]}},
        report={"shards": [folder]},
    )
    tell("dvc repro params imported@theirs train@pairing", theirs)
    assert (theirs / "data/models/pairing/model.safetensors").is_file()
    assert not (theirs / "data/images.zip").exists()
    assert [path.name for path in (theirs / "data/shards").iterdir()] == [".gitignore"]
