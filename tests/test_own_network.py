"""A network of the user's own, with tied layers, in a module that Python finds elsewhere: trained, saved, attacked."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import attack.cli
import train.cli

OWN = """
from torch import nn
class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, classes)
        self.two.weight = self.one.weight
    def forward(self, x):
        return self.head(self.two(self.one(x)).mean((2, 3)))
"""


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for folder in ("elsewhere", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "elsewhere" / "their_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("train.models._trusted", set())
    yield "their_networks:Tied"
    sys.modules.pop("their_networks", None)


def call(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, words: str) -> int:
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_a_network_from_elsewhere(
    own_network: str,
    make_shard_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shards = make_shard_folder()
    options = f"--arch {own_network} --method pairing --epochs 1 --batch-size 8 --workers 0 --out runs/own"
    assert call(train.cli.main, monkeypatch, f"train run --shards {shards} {options}") == 0
    capsys.readouterr()
    assert call(train.cli.main, monkeypatch, f"train run --shards {shards} {options}") == 0
    assert "runs/own holds this run" in capsys.readouterr().err

    monkeypatch.setattr("train.models._trusted", set())  # as in a new process
    attacked = f"attack run --model runs/own --shards {shards} --suite paper --steps 2 --images 3 --out own.json"
    assert call(attack.cli.main, monkeypatch, attacked) == 2
    assert f"--trust {own_network}" in capsys.readouterr().err
    assert call(attack.cli.main, monkeypatch, f"{attacked} --trust {own_network}") == 0
    assert Path("own.json").is_file()
