"""Stylize image data sets with AdaIN into paired WebDataset shards."""

import subprocess
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import typer

from stylize.cli.fit import evaluate_decoder, fit_decoder, fit_styles
from stylize.cli.init import init
from stylize.cli.preview import preview
from stylize.cli.shards import cue_conflict, publish, shards
from stylize.cli.tools import diff, export, images, index, info, merge, pack, rederive, unpack, upload, verify
from stylize.cli.weights import weights_app
from stylize.console import InputError, command_app, run_command_line
from stylize.console.params import (
    add_check,
    check_options,
    check_set_name,
    imported_folders,
    mapping,
    parse_options,
    placed,
    read_section,
)
from stylize.jobs.spec import ShardOptions
from stylize.networks import check_style_exists


def check_params(app: typer.Typer, path: Path) -> None:
    """Check the sections `data` and `stylize`; raise `InputError` for the first value that is wrong."""
    data = read_section(path, "data")
    if not isinstance(data.get("source"), str):
        raise InputError(f"{path}: data: source is {data.get('source')!r}: give a data set's name or a path, as text.")
    from stylize.sources.opening import check_source_exists

    values = parse_options(app, "images", data, f"{path}: data", ("out", "data"))
    try:
        ShardOptions(**{name: values[name] for name in ("seed", "test_fraction") if values[name] is not None})
        if not _bring(data["source"]) and not _is_made(path, "data", {"data": data}):
            check_source_exists(data["source"])
    except InputError as error:
        raise InputError(f"{path}: data: {error}") from None
    section = read_section(path, "stylize", ("options", "style_sets", "imported"))
    shared = f"{path}: stylize.options"
    options = mapping(section.get("options"), shared)
    check_options(app, "shards", options, shared, ("data", "out"))
    sets = mapping(section.get("style_sets"), f"{path}: stylize.style_sets")
    for name, own in sets.items():
        check_set_name(name, f"{path}: stylize.style_sets")
        where = f"{path}: stylize.style_sets.{name}"
        given = {**options, **mapping(own, where)}
        if "shards" in given:
            raise InputError(f"{where} has shards already: move it to stylize.imported, which makes nothing.")
        values = parse_options(app, "shards", given, where, ("data", "out"))
        made = _is_made(path, f"stylize@{name}", {"stylize.options": options, f"stylize.style_sets.{name}": own})
        try:
            _check_shard_options(values, made)
        except InputError as error:
            raise placed(error, own, where, shared) from None
    for name, folder in imported_folders(path, section).items():
        _check_imported(folder, f"{path}: stylize.imported.{name}")


def _is_made(path: Path, stage: str, params: dict[str, Any]) -> bool:
    """Return whether `dvc.lock` records a stage with these parameters: what it was made of may be elsewhere."""
    lock = path.with_name("dvc.lock")
    recorded = read_section(lock, "stages").get(stage, {}) if lock.exists() else {}
    return bool(recorded.get("params", {}).get(path.name) == params)


def _bring(path: str) -> bool:
    """Take a path that is missing from DVC's cache where `dvc add` or `dvc import` shares it; return whether they do.

    No stage depends on pictures and sources by their names, so DVC leaves them out of an experiment's folder.
    """
    for place in (Path(path), *Path(path).parents):
        pointer = Path(f"{place}.dvc")
        if not Path(path).exists() and place.name and pointer.is_file():
            command = [sys.executable, "-m", "dvc", "checkout", "--quiet", str(pointer)]
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)  # noqa: S603
            return True
    return False


def _check_imported(folder: str, where: str) -> None:
    """Raise `InputError` where an imported folder of shards is not there, or not as its manifest says at a glance."""
    from stylize.shards.verify import quick_defects

    _bring(folder)
    if not Path(folder).is_dir():
        raise InputError(f"{where}: there is no folder {folder}: fetch it with `dvc pull`, or import it first.")
    try:
        defects = quick_defects(Path(folder))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if defects:
        rest = f" and {len(defects) - 1} more" if len(defects) > 1 else ""
        raise InputError(f"{where}: {folder} is damaged ({defects[0]}{rest}): fetch or import it again.")


def _check_shard_options(values: dict[str, Any], made: bool) -> None:
    for name in values["style"]:
        if _bring(name) and not Path(name).exists() and not made:
            raise InputError(f"The style {name} is shared by DVC and not here: run `dvc pull {name}`.")
        if not made:
            check_style_exists(name)
    given = {field.name: values[field.name] for field in fields(ShardOptions) if values[field.name] is not None}
    ShardOptions(**{**given, "style": tuple(values["style"])})


app = command_app(__doc__, "stylize")
for command in (
    *(init, shards, publish, images, preview, cue_conflict, verify, info, index, pack, unpack, export, upload),
    *(diff, merge, rederive, fit_decoder, evaluate_decoder, fit_styles),
):
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(weights_app, name="weights")

add_check(app, partial(check_params, app), "data", "stylize")
main = partial(run_command_line, app)
