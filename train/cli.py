"""The command line `train`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stylize.console import InputError, command_app, console, run_command_line
from stylize.console.params import (
    add_check,
    check_list,
    check_options,
    check_set_name,
    mapping,
    parse_options,
    placed,
    read_section,
    shard_folders,
)
from stylize.console.settings import options_of
from stylize.interruption import imports_torch
from stylize.shards.remote import DEFAULT_CACHE, DEFAULT_GB, Cache, CacheGigabytes, local_shards, print_downloaded
from train.config import ARCHITECTURE_HELP, PRESETS, TIMM, TrainConfig, with_preset

GRID = ("method", "arch", "set", "seed")  # in the order of dvc.yaml

app = command_app("Train classifiers from shards of image pairs.", "train")


@app.command()
@options_of(TrainConfig)
@imports_torch
def run(
    *,
    shards: Annotated[str, typer.Option(help="Folder of shards made by `stylize shards`, or its URL.")],
    arch: Annotated[str | None, typer.Option(help=ARCHITECTURE_HELP)] = None,
    preset: Annotated[
        str, typer.Option(help=f"Changes the defaults of the options below: {', '.join(PRESETS)}.")
    ] = "default",
    given: dict[str, Any],
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGigabytes = DEFAULT_GB,
) -> None:
    """Train one classifier; the same command continues a stopped run."""
    from train.loading import evaluated_shards
    from train.run import train_model

    if arch is not None:
        given["arch"] = arch
    config = with_preset(preset, shards=Path(shards), **given)
    needed = partial(evaluated_shards, fraction=config.validation_fraction, seed=config.seed)
    with local_shards(shards, cache, cache_gb, print_downloaded, needed) as folder:
        metrics = train_model(replace(config, shards=folder))
    table = Table(title=str(config.out), show_header=False)
    for name, value in metrics.items():
        text = "none, the shards have no test images" if value is None else str(value)
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else text)
    if metrics:  # of the main process
        console.print(table)


def check_params(path: Path) -> None:
    """Check the pipeline's section `train`; raise `InputError` for the first value that is wrong."""
    section = read_section(path, "train", ("grid", "models", "options"))
    folders = shard_folders(path)
    shared = f"{path}: train.options"
    options = mapping(section.get("options"), shared)
    check_options(app, "run", options, shared, ("out",))
    models, grid = mapping(section.get("models"), f"{path}: train.models"), _grid(path, section)
    if not models and not grid:
        raise InputError(f"{path}: train.models is empty: give one model or more.")
    if twice := sorted(models.keys() & grid.keys()):
        raise InputError(f"{path}: train.models.{twice[0]} is in train.grid too: give it another name.")
    names = {"preset", *(field.name for field in fields(TrainConfig))}
    for name, own in {**models, **grid}.items():
        section_name = f"{path}: train.{'models' if name in models else 'grid'}"
        where = f"{section_name}.{name}"
        check_set_name(name, section_name)
        given = {**options, **mapping(own, where)}
        check_list([given.get("shards")], f"{where}.shards", folders)
        values = parse_options(app, "run", given, where, ("out",))
        try:
            chosen = {name: value for name, value in values.items() if value is not None and name in names}
            config = with_preset(**chosen)
            if config.arch.startswith(TIMM):
                from train.models import check_timm

                check_timm(config.arch)
        except InputError as error:
            raise placed(error, own, where, shared) from None


def _grid(path: Path, section: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of each model of `train.grid`, by the name that DVC's matrix gives it."""
    where = f"{path}: train.grid"
    grid = mapping(section.get("grid"), where)
    if set(grid) != set(GRID):
        raise InputError(f"{where} has {', '.join(map(str, grid)) or 'nothing'}: give {', '.join(GRID)}, each a list.")
    for axis, values in grid.items():
        if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
            raise InputError(f"{where}.{axis} is {values!r}: give a list of names or numbers, or [] for no grid.")
        if len(set(values)) < len(values):
            raise InputError(f"{where}.{axis} is {values!r}: give each value once.")
    return {
        "-".join(map(str, (method, arch, style_set, seed))): {
            "method": method, "arch": arch, "shards": f"data/shards/{style_set}", "seed": seed
        }
        for method, arch, style_set, seed in product(*(grid[axis] for axis in GRID))
    }  # fmt: skip


add_check(app, check_params, "train")
main = partial(run_command_line, app)
