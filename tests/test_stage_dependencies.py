"""Every stage of `dvc.yaml` depends on the code that its command imports: no less, and no folder more."""

import ast
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_imports import PACKAGES, imported

ROOT = Path(__file__).parents[1]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# A stage need not name what no result depends on: lazy names of the public API, and what starts the command line.
FRONTS = {ROOT / package / file for package in PACKAGES for file in ("__init__.py", "__main__.py")}


def files_of(name: str) -> Iterator[Path]:
    """Yield the project's files that importing a dotted name runs: those of the packages on the way, and its own."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:end])
        yield from (path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file())


def reached(command: str) -> set[Path]:
    """Return every file of the project that a command such as `attack run` imports, directly or not, at once or later.

    What another subcommand's function imports in its own body does not count.
    """
    script, subcommand, *_ = command.split()
    *packages, start = files_of(SCRIPTS[script].partition(":")[0])
    (name,) = (name for name in imported(ast.parse(start.read_text())) if name.endswith(".main"))
    *inner, entry = files_of(name.removesuffix(".main"))
    packages += [start, *inner]
    own = {subcommand.replace("-", "_"), f"{subcommand.replace('-', '_')}_command"}
    waiting, found = [*packages, entry], set[Path]()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported_files(path, commands_in(path) - own)
    return found


@cache
def commands_in(path: Path) -> frozenset[str]:
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return frozenset(node.name for node in functions if is_command(node))


def is_command(function: ast.FunctionDef) -> bool:
    registered = any("app.command" in ast.unparse(decorator) for decorator in function.decorator_list)
    return registered or function.name.endswith("_command")


@cache
def imported_files(path: Path, skipped: frozenset[str]) -> list[Path]:
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) not in skipped]
    names = (name for name in imported(tree) if name.split(".")[0] in PACKAGES)
    return [file for name in names for module in (name, *behind_front(name)) for file in files_of(module)]


def behind_front(name: str) -> Iterator[str]:
    """Yield the module that a package's `__init__.pyi` names for one of its public names."""
    package, _, public = name.rpartition(".")
    stub = ROOT / package / "__init__.pyi"
    for node in ast.parse(stub.read_text()).body if package in PACKAGES and stub.is_file() else ():
        if isinstance(node, ast.ImportFrom) and public in (alias.asname for alias in node.names):
            yield f"{package}.{node.module}"


def code_dependencies(stage: dict[str, Any]) -> list[Path]:
    body = stage.get("do", stage)
    return [ROOT / path for path in body["deps"] if path.split("/")[0] in PACKAGES]


def missing(needed: Iterable[Path], given: list[Path]) -> list[Path]:
    return [path for path in needed if not any(path == own or own in path.parents for own in given)]


def superfluous(needed: set[Path], given: list[Path]) -> list[Path]:
    return [own for own in given if not any(path == own or own in path.parents for path in needed)]


@pytest.mark.parametrize("name", STAGES)
def test_an_edit_to_what_a_stage_imports_reruns_it(name: str) -> None:
    stage = STAGES[name]
    commands = stage.get("do", stage)["cmd"]
    listed = commands if isinstance(commands, list) else [commands]
    ours = [command for command in listed if not command.startswith("echo ")]
    needed, given = set[Path]().union(*map(reached, ours)), code_dependencies(stage)
    assert missing(needed - FRONTS, given) == []
    assert superfluous(needed, given) == []


def test_a_missing_and_a_superfluous_dependency_are_seen() -> None:
    needed, given = reached("train run"), code_dependencies(STAGES["train"])
    assert missing(needed, [path for path in given if path.name != "shards"])
    assert superfluous(needed, [*given, ROOT / "stylize" / "engine"])


def test_figures_do_not_rerun_attacks() -> None:
    assert ROOT / "attack" / "report" / "figures.py" not in reached("attack run")
    assert ROOT / "attack" / "report" / "figures.py" in reached("attack report")
