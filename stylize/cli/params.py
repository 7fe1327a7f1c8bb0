"""`stylize check-params`: the pipeline's parameters for this package, checked before anything runs."""

from dataclasses import fields
from pathlib import Path

import typer

from stylize.engine.styles import check_style_exists
from stylize.errors import InputError
from stylize.params import check_set_name, mapping, parse_options, read_section
from stylize.runs.spec import ShardOptions
from stylize.sources.held_out import check_fraction


def check_params(app: typer.Typer, path: Path) -> None:
    """Check the sections `data` and `stylize`; raise `InputError` for the first value that is wrong."""
    data = read_section(path, "data")
    if not isinstance(data.get("source"), str):
        raise InputError(f"{path}: data: source is {data.get('source')!r}: give a data set's name or a path, as text.")
    values = parse_options(app, "images", data, f"{path}: data", ("out", "data"))
    try:
        check_fraction(values["test_fraction"])
    except InputError as error:
        raise InputError(f"{path}: data: {error}") from None
    section = read_section(path, "stylize", ("options", "style_sets"))
    options = mapping(section.get("options"), f"{path}: stylize.options")
    sets = mapping(section.get("style_sets"), f"{path}: stylize.style_sets")
    for name, own in sets.items():
        where = f"{path}: stylize.style_sets"
        check_set_name(name, where)
        _check_shard_options(app, {**options, **mapping(own, f"{where}.{name}")}, f"{where}.{name}")


def _check_shard_options(app: typer.Typer, options: dict[str, object], where: str) -> None:
    values = parse_options(app, "shards", options, where, ("data", "out"))
    try:
        for name in values["style"]:
            check_style_exists(name)
        given = {field.name: values[field.name] for field in fields(ShardOptions)}
        ShardOptions(**{**given, "style": tuple(values["style"])})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
