"""Imports go one way: between the packages, and between the rooms in them (docs/architecture.md)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("stylize", "train", "attack")
# Rooms in their order: each imports itself and those on lines above it, never its neighbours on a line.
ORDER = (
    ("stylize.interruption",),
    ("stylize.console",),
    ("stylize.files",),
    ("stylize.shards",),
    ("stylize.sources",),
    ("stylize.networks",),
    ("stylize.jobs", "stylize.fitting"),
    ("stylize.cli",),
    ("train",),
    ("attack.attacks",),
    ("attack.checks",),
    ("attack.evaluation",),
    ("attack.report",),
    ("attack.cli",),
)
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
# All that classifiers and their evaluation may know of how shards are made.
SHARED = tuple(f"stylize.{name}" for name in ("interruption", "console", "files", "shards"))


def module_name(path: Path) -> str:
    """Return a file's name for `import`; paths are relative to the project."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module, or name in one, that a file imports, at its top or inside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str | None:
    """Return the room that a module or a name in it belongs to; None for the packages' own fronts and for others."""
    return next((room for room in RANKS if name == room or name.startswith(f"{room}.")), None)


def is_wrong(module: str, name: str) -> bool:
    """Tell whether a module may not import a name."""
    package, target = module.split(".")[0], name.split(".")[0]
    if target not in PACKAGES:
        return False
    if package != target:
        shared = target != "stylize" or any(f"{name}.".startswith(f"{shared}.") for shared in SHARED)
        return PACKAGES.index(target) > PACKAGES.index(package) or not shared
    own, other = room_of(module), room_of(name)
    if own is None:  # a package's front may show all of its rooms
        return False
    return other is None or (own != other and RANKS[other] >= RANKS[own])


def wrong_ways(root: Path) -> list[str]:
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return [
        f"{path.relative_to(root)} imports {name}"
        for path in files
        for name in imported(ast.parse(path.read_text()))
        if is_wrong(module_name(path.relative_to(root)), name)
    ]


def test_imports_go_one_way() -> None:
    assert wrong_ways(ROOT) == []


def test_every_module_stands_in_a_room() -> None:
    files = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 80
    assert [path for path in files if len(path.parts) > 2 and room_of(module_name(path)) is None] == []


@pytest.mark.parametrize("front", sorted(ROOT.glob("[sa]*/*/__init__.py")), ids=lambda path: path.parent.name)
def test_the_front_of_a_room_says_what_lives_in_it_and_imports_none_of_it(front: Path) -> None:
    """It is imported with every file of the room."""
    tree, room = ast.parse(front.read_text()), module_name(front.relative_to(ROOT))
    assert ast.get_docstring(tree)
    assert [name for name in imported(tree) if f"{name}.".startswith(f"{room}.")] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("stylize/console/module.py", "import stylize.files"),
        ("stylize/shards/module.py", "import stylize.sources.folder"),
        ("stylize/shards/module.py", "from stylize.sources import open_source"),
        ("stylize/sources/module.py", "from stylize.networks import adain"),
        ("stylize/shards/module.py", "from stylize.networks.adain import adain"),
        ("stylize/networks/module.py", "from stylize.jobs import job"),
        ("stylize/networks/module.py", "def f():\n    import stylize.jobs"),
        ("stylize/fitting/module.py", "from stylize.jobs.job import Job"),
        ("stylize/jobs/module.py", "from stylize.fitting.styles import fit_styles"),
        ("stylize/jobs/module.py", "from stylize.cli.main import app"),
        ("stylize/jobs/module.py", "from stylize import Stylizer"),
        ("stylize/cli/module.py", "from train.loading import x"),
        ("stylize/cli/module.py", "def f():\n    import attack"),
        ("stylize/__init__.py", "import train"),
        ("train/module.py", "from attack import x"),
        ("train/module.py", "from stylize.sources import open_source"),
        ("train/module.py", "from stylize import read_manifest"),
        ("attack/attacks/module.py", "from attack.checks import Check"),
        ("attack/evaluation/module.py", "from attack.report.build import write_report"),
        ("attack/report/module.py", "from stylize.networks.stylizer import Stylizer"),
    ],
)
def test_a_wrong_way_is_seen(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert len(wrong_ways(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("stylize/cli/module.py", "from stylize.jobs.job import Job"),
        ("train/module.py", "from stylize.shards.manifest import Manifest"),
        ("train/module.py", "from stylize.shards.decode import decode_picture"),
        ("attack/evaluation/module.py", "from train import load_model"),
        ("attack/__init__.py", "from attack.report.build import write_report"),
    ],
)
def test_a_right_way_is_allowed(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert wrong_ways(tmp_path) == []


def test_nothing_is_called_utils_or_common() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    own = {part for path in paths for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not (own & {"utils", "util", "common", "helpers"})


def test_importing_the_packages_does_no_work() -> None:
    """Help waits for no large library, `stylize` not for torchvision, which takes as long to import as all the rest.

    No weights are read, no file is written and no connection is opened (PEP 578 audit events).
    """
    code = """
import sys, attack.cli, stylize.cli.main, train.cli
assert not {"torch", "numpy", "PIL", "fsspec", "jinja2", "yaml"} & set(sys.modules)
import torch, matplotlib.pyplot
def hook(event, arguments):
    if event == "socket.connect":
        raise AssertionError(arguments)
    if event == "open":
        path, mode, _ = arguments
        written = mode and set(str(mode)) & set("wax+")
        if str(path).endswith((".safetensors", ".bin", ".pth")) or (written and "__pycache__" not in str(path)):
            raise AssertionError(arguments)
sys.addaudithook(hook)
import stylize, stylize.jobs.run
for name in stylize.__all__:
    getattr(stylize, name)
assert "torchvision" not in sys.modules
for package in (train, attack):
    for name in package.__all__:
        getattr(package, name)
assert not {"ray", "s3fs"} & set(sys.modules)  # extras
"""
    command = [sys.executable, "-W", "error", "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
