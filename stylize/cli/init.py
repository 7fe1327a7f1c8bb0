"""`stylize init`: a DVC pipeline from the user's own images and styles to the report, by the installed version."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from stylize.console import DISTRIBUTION, InputError, console
from stylize.console.params import FORBIDDEN
from stylize.files import given_name, write_atomically
from stylize.networks import check_style_exists

STYLE_HELP = "Picture, folder or built-in style; repeat for more."
# Work in progress, which a stopped run leaves.
IGNORED = {".gitignore": [".staging/", ".*.partial", "/dvc_plots/"], ".dvcignore": [".staging", ".*.partial"]}


def init(
    data: Annotated[str, typer.Option(help="Folder or zip of class folders, or the name of a data set.")],
    style: Annotated[list[str], typer.Option(help=STYLE_HELP)],
) -> None:
    """Write dvc.yaml, params.yaml, .gitignore and a README into this folder; then `dvc repro` makes everything.

    The stages run the installed commands, and run again when another version is installed.
    """
    from stylize.sources.opening import check_source_exists

    for name in ("dvc.yaml", "params.yaml"):
        if Path(name).exists():
            raise InputError(f"{name} is here already: run this in another folder, or move it away.")
    check_source_exists(data)
    for name in style:
        check_style_exists(name)
    written = _render(data, style)
    _init_dvc()
    for name, lines in IGNORED.items():
        path = Path(name)
        own = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if missing := [line for line in _ignored(name, lines, data) if line not in own]:
            write_atomically(path, "".join(f"{line}\n" for line in [*own, *missing]).encode())
    write_atomically(Path("data/imported/.gitkeep"), b"")  # the report's stage depends on the folder
    write_atomically(Path("data/installed"), f"stylize {version(DISTRIBUTION)}\n".encode())  # for `dvc repro --dry`
    for name, text in written.items():
        if name != "README.md" or not Path(name).exists():
            write_atomically(Path(name), text.encode())
    console.print("dvc.yaml, params.yaml, .gitignore and README.md: run `dvc repro` to make everything")


def _ignored(name: str, lines: list[str], data: str) -> list[str]:
    """Return the lines to ignore; Git should not take the pictures, which `dvc add` is for."""
    path = Path(data)
    own = name == ".gitignore" and path.exists() and not path.is_absolute() and ".." not in path.parts
    return [*lines, f"/{path.as_posix()}"] if own and path.parts else lines


def _render(data: str, style: list[str]) -> dict[str, str]:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # which --help need not wait for

    environment = Environment(  # noqa: S701 - of YAML and Markdown
        loader=PackageLoader("stylize.cli"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    stems = "-".join(Path(name).stem for name in style)
    set_name = re.sub(rf"[{re.escape(FORBIDDEN)}\s]+", "-", stems).strip("-")[:80] or "styles"
    values = {
        "source": json.dumps(data, ensure_ascii=False),  # a JSON string is one of YAML
        "style": json.dumps(style[0] if len(style) == 1 else style, ensure_ascii=False),
        "name": json.dumps(set_name, ensure_ascii=False),
        "shards": json.dumps(f"data/shards/{set_name}", ensure_ascii=False),
        "folder": Path(data).exists(),
        "title": given_name(Path()),
        "data": data,
        "path": f"data/shards/{set_name}",
        "version": version(DISTRIBUTION),
    }
    names = ("dvc.yaml", "params.yaml", "README.md")
    return {name: environment.get_template(f"{name}.j2").render(values) for name in names}


def _init_dvc() -> None:
    """Make a DVC repository here, unless this is in one, and let it give an option several times for a list."""
    here = Path().resolve()
    inside = [folder for folder in (here, *here.parents) if (folder / ".git").exists()]
    kind = [] if inside[:1] == [here] else ["--subdir"] if inside else ["--no-scm"]
    commands = [] if (here / ".dvc").is_dir() else [["init", "--quiet", *kind]]
    for command in [*commands, ["config", "--quiet", "parsing.list", "append"]]:
        words = [sys.executable, "-m", "dvc", *command]
        made = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603 - our own words
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
            raise InputError(f"`dvc {' '.join(command)}` failed ({reason.rstrip('.')}): mend it, and run this again.")
