"""The command line `train`."""

from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stylize.command_line import command_app, console, run_command_line
from stylize.errors import InputError
from stylize.params import PARAMS, check_list, check_set_name, mapping, parse_options, read_section, shard_folders
from train.augmentation import IMAGE_PRESETS
from train.config import DTYPES, PRESETS, SCHEDULES, TrainConfig
from train.methods.distances import DISTANCES
from train.methods.table import METHODS
from train.models import ARCHITECTURES
from train.run import train_model

app = command_app("Train classifiers from shards of image pairs.")


@app.command()
def run(
    shards: Annotated[Path, typer.Option(help="Folder of shards made by `stylize shards`.")],
    arch: Annotated[str, typer.Option(help=", ".join(ARCHITECTURES))],
    method: Annotated[str, typer.Option(help=", ".join(METHODS))],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors, metrics.csv and metrics.json.")],
    preset: Annotated[
        str, typer.Option(help="default, or paper: Adam 1e-4 constant, ImageNet weights, 224 px.")
    ] = "default",
    weights: Annotated[
        str | None, typer.Option(help="scratch, imagenet, or a .safetensors or .pth file. [default: scratch]")
    ] = None,
    image_preset: Annotated[str | None, typer.Option(help=f"{', '.join(IMAGE_PRESETS)}. [default: auto]")] = None,
    epochs: Annotated[int | None, typer.Option(help="[default: 20]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per process. [default: 64]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam. [default: 0.001]")] = None,
    schedule: Annotated[str | None, typer.Option(help=f"{', '.join(SCHEDULES)}. [default: cosine]")] = None,
    pairing_weight: Annotated[
        float | None, typer.Option("--lambda", help="Weight λ of the pairing loss. [default: the method's]")
    ] = None,
    pairing_warmup: Annotated[float, typer.Option(help="Epochs over which λ rises from 0.")] = 0.0,
    distance: Annotated[
        str | None, typer.Option(help=f"Of a pair's logits: {', '.join(DISTANCES)}. [default: the method's]")
    ] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="L∞ radius of attacks in training, such as 4/255. [default: the method's]")
    ] = None,
    attack_steps: Annotated[int, typer.Option(help="Of attacks in training that iterate.")] = 7,
    validation_fraction: Annotated[float, typer.Option(help="Share of training images that choose the epoch.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of split, order, augmentation, head and dropout.")] = 0,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(DTYPES)}; auto: bf16 where the hardware has it.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    sync_batchnorm: Annotated[
        bool | None, typer.Option(help="BatchNorm over the images of all processes. [default: on GPUs]")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that load images; they change no result.")] = 2,
    save_minutes: Annotated[float, typer.Option(help="Time between two states to go on from after a crash.")] = 5.0,
) -> None:
    """Train one classifier; the same command continues a stopped run."""
    given = {
        "weights": weights,
        "image_preset": image_preset,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": schedule,
    }
    config = TrainConfig(
        shards=shards,
        arch=arch,
        method=method,
        out=out,
        pairing_weight=pairing_weight,
        pairing_warmup=pairing_warmup,
        distance=distance,
        epsilon=_fraction(epsilon),
        attack_steps=attack_steps,
        validation_fraction=validation_fraction,
        seed=seed,
        dtype=dtype,
        device=device,
        sync_batchnorm=sync_batchnorm,
        workers=workers,
        save_minutes=save_minutes,
        **with_preset(preset, given),
    )
    _print_metrics(train_model(config), out)


def with_preset(preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the preset's settings, overridden by those that were given (not None)."""
    if preset not in PRESETS:
        raise InputError(f"--preset is {preset!r}: choose one of {', '.join(PRESETS)}.")
    return {**PRESETS[preset], **{name: value for name, value in given.items() if value is not None}}


def _fraction(text: str | None) -> float | None:
    """Return a number such as 0.1 or 4/255."""
    try:
        return None if text is None else float(Fraction(text.replace(" ", "")))
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
    section = read_section(path, "train", ("models", "options"))
    folders = shard_folders(path)
    options = mapping(section.get("options"), f"{path}: train.options")
    models = mapping(section.get("models"), f"{path}: train.models")
    if not models:
        raise InputError(f"{path}: train.models is empty: give one model or more.")
    for name, own in models.items():
        where = f"{path}: train.models.{name}"
        check_set_name(name, f"{path}: train.models")
        given = {**options, **mapping(own, where)}
        check_list([given.get("shards")], f"{where}.shards", folders)
        values = parse_options(app, "run", given, where, ("out",))
        settings = {field.name: values[field.name] for field in fields(TrainConfig)}
        try:
            settings["epsilon"] = _fraction(settings["epsilon"])
            TrainConfig(**with_preset(values["preset"], settings))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def main() -> None:
    """Run the command line."""
    run_command_line(app)
