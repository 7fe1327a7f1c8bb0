"""`attack run` and `attack report`."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from attack.attacks.protocol import Protocol
from attack.evaluation.estimates import Estimate, accuracy_at, mean_accuracy
from attack.evaluation.results import Result, record_arrays
from attack.evaluation.run import attack_model
from stylize.command_line import command_app, console, run_command_line
from stylize.errors import InputError
from stylize.params import PARAMS, check_list, mapping, parse_options, read_section
from stylize.wording import counted

app = command_app("Find out how robust classifiers are, and report it.")


@app.command()
def run(
    model: Annotated[Path, typer.Option(help="Model that `train run` wrote.")],
    shards: Annotated[Path, typer.Option(help="Shard folder; its test split is attacked.")],
    out: Annotated[Path, typer.Option(help="Result to write (JSON).")],
    images: Annotated[int, typer.Option(help="Correctly classified test images to attack.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps of the attack.")] = 100,
    step_size: Annotated[float, typer.Option(help="Size of a step; 1 is the full pixel range.")] = 1e-4,
    zero_gradient: Annotated[
        str, typer.Option(help="A pixel with zero gradient: stay, or minus-one (authors' code).")
    ] = "stay",
    batch_size: Annotated[int, typer.Option(help="Images attacked at a time.")] = 25,
    seed: Annotated[int, typer.Option(help="Chooses another hash order of the candidates.")] = 0,
) -> None:
    """Attack one model by the paper's protocol and write the result."""
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage)
            progress.update(tasks[stage], completed=done, total=total)

        document = attack_model(
            model,
            shards,
            out,
            images=images,
            steps=steps,
            step_size=step_size,
            zero_gradient=zero_gradient,
            batch_size=batch_size,
            seed=seed,
            progress=show,
        )
    console.print(_table(document, out))
    _print_failed_checks(document)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Results that `attack run` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    shards: Annotated[
        list[Path] | None, typer.Option(help="Shard folder to show stylized pairs from; repeatable.")
    ] = None,
) -> None:
    """Write one page, its figures and tables from results."""
    from attack.report.build import write_report  # here, so that attacks do not depend on the code of figures

    page = write_report(results, out, shards=shards or ())
    console.print(f"Report of {counted(len(results), 'result')}: {page}", highlight=False)


@app.command("check-params")
def check_params_command(params: Annotated[Path, typer.Argument(help="The pipeline's parameters.")] = PARAMS) -> None:
    """Check the sections attack and report of params.yaml, before `dvc repro` runs anything with them."""
    check_params(params)
    console.print(f"{params}: attack and report are right")


def check_params(path: Path) -> None:
    """Check the pipeline's sections `attack` and `report`; raise `InputError` for the first value that is wrong."""
    section = read_section(path, "attack", ("options",))
    options = mapping(section.get("options"), f"{path}: attack.options")
    needed = {"model": "model", "shards": "shards", "out": "out"}
    values = parse_options(app, "run", {**needed, **options}, f"{path}: attack.options")
    try:
        Protocol(**{field.name: values[field.name] for field in fields(Protocol) if field.name in values})
    except InputError as error:
        raise InputError(f"{path}: attack.options: {error}") from None
    sets = read_section(path, "train").get("style_sets")
    shards = read_section(path, "report", ("shards",)).get("shards")
    known = [f"data/shards/{name}" for name in sets] if isinstance(sets, list) else []
    check_list(shards if isinstance(shards, list) else [shards], f"{path}: report.shards", known)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)


def _table(document: dict[str, Any], out: Path) -> Table:
    result = Result(out, document, record_arrays(document["records"]))
    clean, candidates = document["clean"], document["candidates"]
    largest = result.largest_linf
    passed = sum(check["passed"] for check in document["checks"])
    table = Table(title=f"{result.method} {result.arch} on {result.shards_name}", show_header=False)
    table.add_row("clean accuracy", f"{Estimate(clean['accuracy'], clean['standard_error'])}, n = {clean['images']}")
    table.add_row("attacked images", f"{candidates['used']} of {candidates['walked']} candidates")
    table.add_row("mean accuracy over the L-infinity range", str(mean_accuracy(result)))
    table.add_row(f"accuracy at L-infinity = {largest:g} ({255 * largest:.2f}/255)", str(accuracy_at(result, largest)))
    table.add_row("sanity checks", f"{passed} of {len(document['checks'])} passed")
    table.add_row("seconds", str(document["seconds"]))
    table.add_row("result", str(out))
    return table


def _print_failed_checks(document: dict[str, Any]) -> None:
    for check in document["checks"]:
        if not check["passed"]:
            console.print(f"Check failed: {check['name']}: {check['detail']}", style="bold red")


def main() -> None:
    """Run the command line."""
    run_command_line(app)
