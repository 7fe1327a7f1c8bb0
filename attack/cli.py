"""`attack run`, `attack transfer` and `attack report`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from attack.cli_beyond import corruptions_command, explain_command, shape_bias_command
from attack.evaluation.config import AttackConfig, epsilon_name, parse_epsilon
from attack.evaluation.results import read_result
from attack.evaluation.run import attack_model
from attack.evaluation.summary import robust_shares, whole_split
from attack.evaluation.transfer import attack_transfer
from stylize.errors import run_command_line

app = typer.Typer(
    help="Find out how robust classifiers are, and report it.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command("shape-bias")(shape_bias_command)
app.command("corruptions")(corruptions_command)
app.command("explain")(explain_command)

Shards = Annotated[Path, typer.Option(help="Shard folder; its test split is attacked.")]
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
) -> None:
    """Attack one model, check the attacks, and write the result; the same command goes on after an interruption."""
    config = AttackConfig(
        suite=suite, images=images, strong_images=strong_images, epsilons=_epsilons(epsilon), steps=steps,
        step_size=step_size, zero_gradient=zero_gradient, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    console = Console()
    with _progress(console) as show:
        attack_model(model, shards, out, config, progress=show)
    console.print(_table(out))
    _print_failed_checks(console, out)


@app.command()
def transfer(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Models that `train run` wrote.")],
    shards: Shards,
    out: Annotated[Path, typer.Option(help="File to write (JSON).")],
    images: Images = 200,
    epsilon: Epsilons = None,
    batch_size: BatchSize = 50,
    seed: Seed = 0,
) -> None:
    """Try the adversarial images of each model on every other; `attack report --transfer` takes the file in."""
    config = AttackConfig(images=images, epsilons=_epsilons(epsilon), batch_size=batch_size, seed=seed)
    console = Console()
    with _progress(console) as show:
        attack_transfer(models, shards, out, config, progress=show)
    console.print(f"Transfer among {len(models)} models: {out}", highlight=False, soft_wrap=True)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Results that `attack run` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    shards: Annotated[
        list[Path] | None, typer.Option(help="Shard folder to show stylized pairs from; repeatable.")
    ] = None,
    transfer: Annotated[Path | None, typer.Option(help="File that `attack transfer` wrote.")] = None,
) -> None:
    """Write one page, its figures and tables from results."""
    from attack.report.build import write_report  # here, so that attacks do not depend on the code of figures

    page = write_report(results, out, shards=shards or (), transfer=transfer)
    Console().print(f"Report of {len(results)} results: {page}", highlight=False, soft_wrap=True)


def _epsilons(given: list[str] | None) -> tuple[float, ...]:
    return tuple(map(parse_epsilon, given)) if given else AttackConfig.epsilons


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show one line per kind of work; what follows a colon in a stage's name changes within its line."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            kind = stage.partition(":")[0]
            if kind not in tasks:
                tasks[kind] = progress.add_task(stage)
            progress.update(tasks[kind], description=stage, completed=done, total=total)

        yield show


def _table(out: Path) -> Table:
    result = read_result(out)
    table = Table(title=f"{result.method} {result.arch} on {result.shards_name}", show_header=False)
    clean = result.document["clean"]
    table.add_row("verdict", f"[bold]{result.verdict.word}[/]")
    table.add_row("clean accuracy", f"{whole_split(result)}, n = {clean['images']}")
    for epsilon, robust in robust_shares(result).items():
        table.add_row(f"robust at L∞ {epsilon_name(epsilon)}, n = {robust.n}", str(robust))
    table.add_row("attacks", f"{len(result.attempts)}, {result.document['forwards']:,} forward passes")
    passed = sum(check.passed for check in result.checks)
    table.add_row("checks", f"{passed} of {len(result.checks)} passed")
    table.add_row("seconds", str(result.document["seconds"]))
    table.add_row("result", str(out))
    return table


def _print_failed_checks(console: Console, out: Path) -> None:
    result = read_result(out)
    for reason in result.verdict.reasons:
        console.print(f"{result.verdict.word}: {reason}", highlight=False)
    for check in result.checks:
        if not check.passed:
            console.print(f"[bold red]Check failed:[/] {check.name}: {check.detail}")


def main() -> None:
    """Run the command line."""
    run_command_line(app)
