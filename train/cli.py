"""The command line `train`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stylize.console import InputError, command_app, console, run_command_line
from stylize.params import (
    PARAMS,
    check_list,
    check_options,
    check_set_name,
    mapping,
    parse_options,
    placed,
    read_section,
    shard_folders,
)
from stylize.shards.remote import DEFAULT_CACHE, DEFAULT_GB, Cache, CacheGigabytes, opened_shards
from train.augment import IMAGE_PRESETS
from train.config import DTYPES, LOGS, OPTIMIZERS, PRESETS, SCHEDULES, TrainConfig
from train.methods import DISTANCES, METHODS
from train.models import ARCHITECTURE_HELP, check_timm
from train.run import train_model

GRID = ("method", "arch", "set", "seed")  # in the order of dvc.yaml

app = command_app("Train classifiers from shards of image pairs.")


@app.command()
def run(
    shards: Annotated[str, typer.Option(help="Folder of shards made by `stylize shards`, or its URL.")],
    method: Annotated[str, typer.Option(help=", ".join(METHODS))],
    out: Annotated[Path, typer.Option(help="Folder for the model, its metrics and its record.")],
    arch: Annotated[str | None, typer.Option(help=ARCHITECTURE_HELP)] = None,
    preset: Annotated[str, typer.Option(help=f"Other defaults of what follows: {', '.join(PRESETS)}.")] = "default",
    stem: Annotated[str | None, typer.Option(help="standard, or small: for 32 px. [default: standard]")] = None,
    weights: Annotated[
        str | None, typer.Option(help="scratch, imagenet, or a .safetensors or .pth file. [default: scratch]")
    ] = None,
    image_preset: Annotated[str | None, typer.Option(help=f"{', '.join(IMAGE_PRESETS)}. [default: auto]")] = None,
    epochs: Annotated[int | None, typer.Option(help="[default: 20]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per process. [default: 64]")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches that make one update. [default: 1]")] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"{', '.join(OPTIMIZERS)}. [default: adam]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[default: 0.001]")] = None,
    schedule: Annotated[str | None, typer.Option(help=f"{', '.join(SCHEDULES)}. [default: cosine]")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="While the learning rate rises. [default: 0]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of matrices and filters. [default: 0]")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="[default: 0]")] = None,
    mixup: Annotated[float | None, typer.Option(help="α of mixup, of pairs alike. [default: 0, none]")] = None,
    cutmix: Annotated[float | None, typer.Option(help="α of CutMix, of pairs alike. [default: 0, none]")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient. [default: 0, any]")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights. [default: 0, none]")] = None,
    pairing_weight: Annotated[
        float | None, typer.Option("--lambda", help="Weight λ of the pairing loss. [default: the method's]")
    ] = None,
    pairing_warmup: Annotated[float | None, typer.Option(help="Epochs over which λ rises from 0. [default: 0]")] = None,
    distance: Annotated[
        str | None, typer.Option(help=f"Of a pair's logits: {', '.join(DISTANCES)}. [default: the method's]")
    ] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="L∞ radius of attacks in training, such as 4/255. [default: the method's]")
    ] = None,
    attack_steps: Annotated[int | None, typer.Option(help="Of attacks in training that iterate. [default: 7]")] = None,
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share of training images that choose the epoch. [default: 0.1]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of split, order, augmentation, head and dropout.")] = 0,
    dtype: Annotated[
        str, typer.Option(help=f"{', '.join(DTYPES)}; auto: bf16 where the hardware gains by it.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compile: Annotated[bool, typer.Option(help="Compile the model first, which takes minutes.")] = False,
    split_batchnorm: Annotated[
        bool, typer.Option("--split-batchnorm", help="BatchNorm of their own for copies and adversaries.")
    ] = False,
    sync_batchnorm: Annotated[
        bool | None, typer.Option(help="BatchNorm over the images of all processes. [default: on GPUs]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that load images; no result changes. [default: 2; on few CPUs 0]")
    ] = None,
    save_minutes: Annotated[float, typer.Option(help="Time between two states to go on from after a crash.")] = 5.0,
    log: Annotated[str, typer.Option(help=f"Who follows the metrics in OUT/live: {', '.join(LOGS)}.")] = "none",
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGigabytes = DEFAULT_GB,
) -> None:
    """Train one classifier; the same command continues a stopped run."""
    config = settings(locals())
    with opened_shards(shards, cache, cache_gb) as folder:
        metrics = train_model(replace(config, shards=folder))
    _print_metrics(metrics, out)


def settings(options: Mapping[str, Any]) -> TrainConfig:
    """Return the settings of the options of `run`, where None leaves it to the preset, or to its default."""
    if options["preset"] not in PRESETS:
        raise InputError(f"--preset is {options['preset']!r}: choose one of {', '.join(PRESETS)}.")
    names = {field.name for field in fields(TrainConfig)}
    given = {name: value for name, value in options.items() if value is not None and name in names}
    values = {**PRESETS[options["preset"]], **given, "shards": Path(options["shards"])}
    if "arch" not in values:
        raise InputError(f"--arch is missing: give {ARCHITECTURE_HELP}")
    if "epsilon" in values:
        values["epsilon"] = _fraction(values["epsilon"])
    return TrainConfig(**values)


def _fraction(text: str) -> float:
    """Return a number such as 0.1 or 4/255."""
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--epsilon is {text!r}: give a number such as 4/255 or 0.1.") from None


def _print_metrics(metrics: dict[str, Any], out: Path) -> None:
    if not metrics:
        return  # not the main process
    table = Table(title=str(out), show_header=False)
    for name, value in metrics.items():
        text = "none, the shards have no test images" if value is None else str(value)
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else text)
    console.print(table)


@app.command("check-params")
def check_params_command(params: Annotated[Path, typer.Argument(help="The pipeline's parameters.")] = PARAMS) -> None:
    """Check the section train of params.yaml, before `dvc repro` runs anything with it."""
    check_params(params)
    console.print(f"{params}: train is right")


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
    for name, own in {**models, **grid}.items():
        section_name = f"{path}: train.{'models' if name in models else 'grid'}"
        where = f"{section_name}.{name}"
        check_set_name(name, section_name)
        given = {**options, **mapping(own, where)}
        check_list([given.get("shards")], f"{where}.shards", folders)
        values = parse_options(app, "run", given, where, ("out",))
        try:
            check_timm(settings(values).arch)
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


def main() -> None:
    """Run the command line."""
    run_command_line(app)
