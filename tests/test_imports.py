import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {"stylize": {"stylize"}, "train": {"stylize", "train"}, "attack": {"stylize", "train", "attack"}}


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, at its top or inside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_ways(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)} imports {name}"
        for package, allowed in ALLOWED.items()
        for path in sorted((root / package).rglob("*.py"))
        for name in imported(path)
        if name.split(".")[0] in ALLOWED.keys() - allowed
    ]


def test_imports_go_one_way() -> None:
    assert all(list((ROOT / package).glob("*.py")) for package in ALLOWED)
    assert wrong_ways(ROOT) == []


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("stylize", "from train.loading import x"),
        ("stylize", "def f():\n    import attack"),
        ("train", "from attack import x"),
    ],
)
def test_a_wrong_way_is_seen(tmp_path: Path, package: str, line: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "module.py").write_text(line)
    assert len(wrong_ways(tmp_path)) == 1


def test_nothing_is_called_utils_or_common() -> None:
    paths = [path for package in ALLOWED for path in (ROOT / package).rglob("*.py")]
    names = {part for path in paths for name in imported(path) for part in name.split(".")[:2]}
    own = {part for path in paths for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not (own & {"utils", "util", "common", "helpers"})
    assert not {name for path in paths for name in imported(path) if name.startswith(("utils", "common"))}
    assert names >= {"stylize"}


def test_importing_the_packages_does_no_work() -> None:
    """No weights are read, no file is written and no connection is opened (PEP 578 audit events)."""
    code = """
import sys, torch, torchvision, matplotlib.pyplot
def hook(event, arguments):
    if event == "socket.connect":
        raise AssertionError(arguments)
    if event == "open":
        path, mode, _ = arguments
        written = mode and set(str(mode)) & set("wax+")
        if str(path).endswith((".safetensors", ".bin", ".pth")) or (written and "__pycache__" not in str(path)):
            raise AssertionError(arguments)
sys.addaudithook(hook)
import stylize, train, attack
import stylize.cli, train.cli, attack.cli
"""
    command = [sys.executable, "-W", "error", "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
