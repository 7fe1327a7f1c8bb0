"""`params.yaml` of the pipeline: read as DVC reads it, and checked by the commands that it is for, before any stage."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from typer.main import get_command

from stylize.console import InputError, console, literal

PARAMS = Path("params.yaml")
ENDS_QUOTES = '\\"`$'  # letters that a shell reads in a quoted word
FORBIDDEN = f"./@{ENDS_QUOTES}"  # DVC takes a dot for a level of the parameters and @ for the end of a stage's name
MAKE_NOTHING = ("dry-run", "help")  # options with which a stage would have no output
LONGEST_NAME = 100  # bytes: file names are made of it and of two more


def read_section(path: Path, name: str, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Return a section of a YAML file, with no other keys than those given (None: any).

    Raises `InputError` where the file cannot be read, or the section is missing or not as it should be.
    """
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))  # YAML 1.2, as DVC reads it
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run this where the pipeline is.") from None
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML ({reason}): mend it.") from None
    section = document.get(name) if isinstance(document, dict) else None
    section = mapping(section, f"{path}: {name}")
    if unknown := [key for key in section if keys is not None and key not in keys]:
        raise InputError(f"{path}: {name} has no key {unknown[0]!r}: there are {', '.join(keys or ())}.")
    return section


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a value that is a mapping; raise `InputError` for any other."""
    if not isinstance(value, dict):
        raise InputError(f"{where} is {value!r}: give keys and values, as `key: value`.")
    return value


def check_list(values: Any, where: str, known: Iterable[str]) -> list[str]:
    """Return a list of different names that are all known; raise `InputError` for anything else."""
    known = list(known)
    choices = ", ".join(map(str, known)) or "nothing, as there is none"
    if values == [None]:
        raise InputError(f"{where} is missing: choose from {choices}.")
    if not isinstance(values, list) or not values:
        raise InputError(f"{where} is {values!r}: give a list, of {choices}.")
    for number, value in enumerate(values):
        if value not in known:
            raise InputError(f"{where} names {value!r}, which there is not: choose from {choices}.")
        if value in values[:number]:
            raise InputError(f"{where} names {value!r} twice: name it once.")
    return values


def shard_folders(path: Path) -> list[str]:
    """Return the shard folders that models may use: those of the style sets made here, then the imported ones."""
    section = read_section(path, "stylize")
    made = mapping(section.get("style_sets"), f"{path}: stylize.style_sets")
    return [*(f"data/shards/{name}" for name in made), *imported_folders(path, section).values()]


def imported_folders(path: Path, section: Mapping[str, Any]) -> dict[str, str]:
    """Return where each set of `stylize.imported` lies; raise `InputError` for one that names no place for it."""
    folders = {}
    for name, own in mapping(section.get("imported"), f"{path}: stylize.imported").items():
        where = f"{path}: stylize.imported"
        check_set_name(name, where)
        given = mapping(own, f"{where}.{name}")
        folder = given.get("shards")
        if len(given) != 1 or not isinstance(folder, str) or not folder or set(folder) & set(ENDS_QUOTES):
            letters = " ".join(ENDS_QUOTES)
            raise InputError(f"{where}.{name} is {given!r}: give `shards: FOLDER` alone, without any of {letters}.")
        folders[str(name)] = folder
    return folders


def check_set_name(name: Any, where: str) -> None:
    """Raise `InputError` for a style set's name that DVC, the shell or a folder cannot carry as it is."""
    if not isinstance(name, str):
        raise InputError(f"{where} has the name {name!r}, which YAML reads as no text: write it in quotes.")
    fits = name and len(name.encode("utf-8", "replace")) <= LONGEST_NAME
    if not fits or name != name.strip() or literal(name) != name or set(name) & set(FORBIDDEN):
        raise InputError(
            f"{where} has the name {name!r}, which DVC cannot carry: give 1 to {LONGEST_NAME} bytes without any of "
            f"{' '.join(FORBIDDEN)}, control characters, or spaces at an end."
        )


_parser = cache(get_command)  # an app's commands and options, read from its functions


def parse_options(
    app: typer.Typer, command: str, given: Mapping[str, Any], where: str, stage: Iterable[str] = ()
) -> dict[str, Any]:
    """Return a command's values for options as DVC hands them over, as the command's own parser reads them.

    `stage` names the options that the pipeline's stage gives itself.
    Raises `InputError` for what `check_options` refuses, and for an option that is missing.
    """
    check_options(app, command, given, where, stage)
    return _parse(app, command, {**dict.fromkeys(stage, "x"), **given}, where)


def check_options(
    app: typer.Typer, command: str, given: Mapping[str, Any], where: str, stage: Iterable[str] = ()
) -> None:
    """Raise `InputError` for an option that a command does not have, or a value of the wrong type.

    So it does for an option of `stage`, which the pipeline's stage gives itself, and for one that makes nothing.
    """
    parser: Any = _parser(app)
    options = parser.commands[command].params
    known = {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}
    for name, value in given.items():
        if name in stage or name in MAKE_NOTHING:
            raise InputError(f"{where}: {name} cannot be given here, the pipeline needs its own: remove the line.")
        if (option := known.get(f"--{name}")) is None:
            near = difflib.get_close_matches(f"--{name}", known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"{where}: No such option: --{name}{meant}: see `{command} --help`.")
        if wrong := _wrong_kind(option, name, value):
            raise InputError(f"{where}: {name} is {value!r}: {wrong}.")
    _parse(app, command, given, where, missing=True)


def _parse(
    app: typer.Typer, command: str, given: Mapping[str, Any], where: str, *, missing: bool = False
) -> dict[str, Any]:
    """Return the values that a command's parser reads; with `missing`, options may be, which another place gives."""
    parser: Any = _parser(app)
    words: list[str] = []  # as DVC does: a list repeats its option, true is a flag, and false is nothing
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not False:
                words += [f"--{name}"] if one is True else [f"--{name}", str(one)]
    try:
        with parser.commands[command].make_context(command, words) as context:
            values: dict[str, Any] = context.params
            return values
    except InputError as error:  # of an option's own parser
        raise InputError(f"{where}: {error}") from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's classes for wrong options have no stable place
            raise
        reason = error.format_message().rstrip(".")
        if type(error).__name__ == "MissingParameter":
            if missing:
                return {}
            raise InputError(f"{where}: {reason}: add it.") from None
        value = next((f" (it is {value!r})" for name, value in given.items() if f"'--{name}'" in reason), "")
        raise InputError(f"{where}: {reason}{value}: see `{app.info.name} {command} --help`.") from None


def _wrong_kind(option: Any, name: str, value: Any) -> str | None:
    """Return what to do about a value that DVC would pass on as something else, or None."""
    if value is None or isinstance(value, dict):
        return "give a value, or remove the line"
    if option.is_flag:
        if not isinstance(value, bool):
            return "give true or false"
        return f"give `no-{name}: true`" if value is False and option.secondary_opts else None
    if isinstance(value, bool):
        return "give a value that is not true or false"
    if isinstance(value, list):
        if not option.multiple:
            return "give one value, not a list"
        if not value or any(one is None or isinstance(one, bool | list | dict) for one in value):
            return "give a list of values"
    return None


def add_check(app: typer.Typer, check: Callable[[Path], None], *sections: str) -> None:
    """Give a program the command `check-params`, which checks its sections of `params.yaml`."""
    listed, are = " and ".join(sections), "are" if len(sections) > 1 else "is"

    def check_params(params: Annotated[Path, typer.Argument(help="The pipeline's parameters.")] = PARAMS) -> None:
        check(params)
        console.print(f"{params}: {listed} {are} right")

    title = f"Check {listed} in params.yaml, before `dvc repro` runs anything."
    app.command("check-params", help=title)(check_params)


def placed(error: InputError, own: Mapping[str, Any], where: str, shared: str) -> InputError:
    """Return an error with the place of the option that it names: `where` for one of `own`, or that of shared ones."""
    named = re.match(r"--([\w-]+) is ", str(error))
    return InputError(f"{shared if named and named[1] not in own else where}: {error}")
