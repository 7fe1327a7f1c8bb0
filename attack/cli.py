"""`attack run`, `attack transfer` and `attack report`."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from attack.cli_beyond import corruptions_command, explain_command, shape_bias_command, stage_progress
from attack.evaluation.config import AttackConfig, epsilon_name, parse_epsilon
from attack.evaluation.results import read_result
from attack.evaluation.run import attack_model
from attack.evaluation.summary import robust_shares, whole_split
from attack.evaluation.transfer import attack_transfer
from stylize.command_line import command_app, console, run_command_line
from stylize.errors import InputError
from stylize.params import PARAMS, check_list, mapping, parse_options, read_section, shard_folders
from stylize.shards.cache import DEFAULT_CACHE, DEFAULT_GB
from stylize.shards.options import Cache, CacheGigabytes, opened_shards
from stylize.wording import counted

app = command_app("Find out how robust classifiers are, and report it.")
app.command("shape-bias")(shape_bias_command)
app.command("corruptions")(corruptions_command)
app.command("explain")(explain_command)

SHARED = ("shards", "images", "epsilon", "batch-size", "seed")  # options of both `run` and `transfer` in the pipeline
Shards = Annotated[str, typer.Option(help="Shard folder, or its URL; its test split is attacked.")]
Images = Annotated[int, typer.Option(help="Test images to evaluate on, the same for every model.")]
Epsilons = Annotated[
    list[str] | None, typer.Option("--epsilon", help="L∞ radius, such as 8/255; repeatable. [default: 2/255, 8/255]")
]
BatchSize = Annotated[int, typer.Option(help="Images attacked at a time.")]
Seed = Annotated[int, typer.Option(help="Chooses another list of images, and the attacks' random points.")]


@app.command()
def run(
    model: Annotated[str, typer.Option(help="Model that `train run` wrote, or package.module:function.")],
    shards: Shards,
    out: Annotated[Path, typer.Option(help="Result to write (JSON).")],
    suite: Annotated[
        str,
        typer.Option(help="paper: its path alone; quick: about a minute; full: AutoAttack, minimal norms and more."),
    ] = "quick",
    images: Images = 200,
    strong_images: Annotated[
        int, typer.Option(help="So many of the images meet AutoAttack, Square and the minimal-norm attacks.")
    ] = 100,
    epsilon: Epsilons = None,
    steps: Annotated[int, typer.Option(help="Steps of the paper's path.")] = 100,
    step_size: Annotated[float, typer.Option(help="Size of a step of the path; 1 is the full pixel range.")] = 1e-4,
    zero_gradient: Annotated[
        str, typer.Option(help="A pixel with zero gradient on the path: stay, or minus-one (authors' code).")
    ] = "stay",
    batch_size: BatchSize = 50,
    seed: Seed = 0,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGigabytes = DEFAULT_GB,
) -> None:
    """Attack one model, check the attacks, and write the result; the same command goes on after an interruption."""
    config = AttackConfig(
        suite=suite, images=images, strong_images=strong_images, epsilons=_epsilons(epsilon), steps=steps,
        step_size=step_size, zero_gradient=zero_gradient, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    with opened_shards(shards, cache, cache_gb) as folder, stage_progress() as show:
        attack_model(model, folder, out, config, progress=show)
    console.print(_table(out))
    _print_failed_checks(out)


@app.command()
def transfer(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Models that `train run` wrote.")],
    shards: Shards,
    out: Annotated[Path, typer.Option(help="File to write (JSON).")],
    images: Images = 200,
    epsilon: Epsilons = None,
    batch_size: BatchSize = 50,
    seed: Seed = 0,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGigabytes = DEFAULT_GB,
) -> None:
    """Try the adversarial images of each model on every other; `attack report --transfer` takes the file in."""
    config = AttackConfig(images=images, epsilons=_epsilons(epsilon), batch_size=batch_size, seed=seed)
    with opened_shards(shards, cache, cache_gb) as folder, stage_progress() as show:
        attack_transfer(models, folder, out, config, progress=show)
    console.print(f"Transfer among {counted(len(models), 'model')}: {out}", highlight=False)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Results that `attack run` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    shards: Annotated[
        list[Path] | None, typer.Option(help="Shard folder to show stylized pairs from; repeatable.")
    ] = None,
    transfer: Annotated[Path | None, typer.Option(help="File that `attack transfer` wrote.")] = None,
    beside: Annotated[
        list[Path] | None, typer.Option(help="File of `attack shape-bias` or `attack corruptions`; repeatable.")
    ] = None,
    explanations: Annotated[Path | None, typer.Option(help="Picture that `attack explain` wrote.")] = None,
) -> None:
    """Write one page, its figures and tables from results."""
    from attack.report.build import write_report  # here, so that attacks do not depend on the code of figures

    page = write_report(
        results, out, shards=shards or (), transfer=transfer, beside=beside or (), explanations=explanations
    )
    console.print(f"Report of {counted(len(results), 'result')}: {page}", highlight=False)


@app.command("check-params")
def check_params_command(params: Annotated[Path, typer.Argument(help="The pipeline's parameters.")] = PARAMS) -> None:
    """Check the sections attack and report of params.yaml, before `dvc repro` runs anything with them."""
    check_params(params)
    console.print(f"{params}: attack and report are right")


def check_params(path: Path) -> None:
    """Check the pipeline's sections `attack` and `report`; raise `InputError` for the first value that is wrong."""
    section = read_section(path, "attack", ("options", "shared"))
    shared, options = (mapping(section.get(name), f"{path}: attack.{name}") for name in ("shared", "options"))
    if unknown := [name for name in shared if name not in SHARED]:
        raise InputError(f"{path}: attack.shared has no {unknown[0]!r}: give {', '.join(SHARED)}, the rest as options.")
    if misplaced := [name for name in options if name in SHARED]:
        raise InputError(f"{path}: attack.options has {misplaced[0]!r}: give it in attack.shared, for transfers too.")
    values = parse_options(app, "run", {**shared, **options}, f"{path}: attack.options", ("model", "out"))
    settings = {field.name: values[field.name] for field in fields(AttackConfig) if field.name in values}
    try:
        AttackConfig(**settings, epsilons=_epsilons(values["epsilon"]))
    except InputError as error:
        raise InputError(f"{path}: attack.options: {error}") from None
    known = shard_folders(path)
    check_list([shared.get("shards")], f"{path}: attack.shared.shards", known)
    check_list(read_section(path, "report", ("shards",)).get("shards"), f"{path}: report.shards", known)


def _epsilons(given: list[str] | None) -> tuple[float, ...]:
    return tuple(map(parse_epsilon, given)) if given else AttackConfig.epsilons


def _table(out: Path) -> Table:
    result = read_result(out)
    table = Table(title=f"{result.method} {result.arch} on {result.shards_name}", show_header=False)
    clean = result.document["clean"]
    table.add_row("verdict", result.verdict.word)
    table.add_row("clean accuracy", f"{whole_split(result)}, n = {clean['images']}")
    for epsilon, robust in robust_shares(result).items():
        table.add_row(f"robust at L-infinity {epsilon_name(epsilon)}, n = {robust.n}", str(robust))
    table.add_row("attacks", f"{len(result.attempts)}, {result.document['forwards']:,} forward passes")
    passed = sum(check.passed for check in result.checks)
    table.add_row("checks", f"{passed} of {len(result.checks)} passed")
    table.add_row("seconds", str(result.document["seconds"]))
    table.add_row("result", str(out))
    return table


def _print_failed_checks(out: Path) -> None:
    result = read_result(out)
    for reason in result.verdict.reasons:
        console.print(f"{result.verdict.word}: {reason}", highlight=False)
    for check in result.checks:
        if not check.passed:
            console.print(f"Check failed: {check.name}: {check.detail}", style="bold red")


def main() -> None:
    """Run the command line."""
    run_command_line(app)
