"""Shards pushed to a machine behind SSH, and pulled by a colleague: OpenSSH's own server, on this machine."""

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stylize.shards.verify import quick_defects
from tests.test_sharing import tell

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Run a server that lets this user in by one key; yield its port."""
    if SSHD is None:
        pytest.skip("there is no sshd: install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
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


@pytest.mark.slow
def test_shards_travel_by_ssh(make_shard_folder: Callable[..., Path], tmp_path: Path, port: int) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(make_shard_folder(), mine / "shards")
    remote = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/remote"
    tell(
        f"git init -q && dvc init -q && dvc remote add -q -d team {remote} && "
        f"dvc remote modify team keyfile {tmp_path}/user && dvc add -q shards && dvc push -q && "
        "git add . && git commit -qm 'Shards, and where they are'",
        mine,
    )
    tell("git clone -q mine theirs && cd theirs && dvc pull -q", tmp_path)
    assert quick_defects(tmp_path / "theirs" / "shards") == []
    theirs, ours = (
        {path.name: path.read_bytes() for path in (tmp_path / who / "shards").iterdir()} for who in ("theirs", "mine")
    )
    assert theirs == ours
