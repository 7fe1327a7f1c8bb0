"""`attack run`, `attack transfer` and `attack report`."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from attack.evaluation import AttackConfig, TransferConfig
from stylize.console import InputError, command_app, console, counted, run_command_line, shown_progress
from stylize.console.params import (
    add_check,
    check_list,
    check_options,
    mapping,
    parse_options,
    placed,
    read_section,
    shard_folders,
)
from stylize.console.settings import options_of
from stylize.interruption import imports_torch
from stylize.shards.remote import DEFAULT_CACHE, DEFAULT_GB, Cache, CacheGigabytes, local_shards, print_downloaded

if TYPE_CHECKING:
    from attack.evaluation.result import Result

app = command_app("Find out how robust classifiers are, and report it.", "attack")
MODEL_HELP = "Model that `train run` wrote (file or folder), or package.module:function."
ClassifiedAtATime = Annotated[int, typer.Option(help="Images classified at a time.")]
Out = Annotated[Path, typer.Option(help="Result to write (JSON).")]


def _trust(references: list[str] | None) -> list[str] | None:
    for reference in references or ():
        from train import trust  # which imports PyTorch

        trust(reference)
    return references


Trust = Annotated[  # its callback does all, so commands take it and do not look at it
    list[str] | None,
    typer.Option(callback=_trust, help="package.module:function that model files may run; repeatable. [default: none]"),
]


@app.command("shape-bias")
@imports_torch
def shape_bias_command(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    shards: Annotated[Path, typer.Option(help="Folder of `stylize cue-conflict`.")],
    out: Out,
    texture_free: Annotated[
        Path | None, typer.Option(help="Folder of `stylize cue-conflict --texture-free`: accuracy on plain shapes too.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Model of normal training: images count where it knows the original.")
    ] = None,
    originals: Annotated[Path | None, typer.Option(help="Shard folder of the originals, for --reference.")] = None,
    batch_size: ClassifiedAtATime = 100,
    trust: Trust = None,
) -> None:
    """Measure whether a model goes by shape or by texture where the two disagree (Geirhos et al. 2019)."""
    from attack.evaluation.shape_bias import measure_shape_bias

    with shown_progress(console, unit="") as show:
        document = measure_shape_bias(
            model, shards, out, texture_free=texture_free, reference=reference, originals=originals,
            batch_size=batch_size, progress=show,
        )  # fmt: skip
    for name in ("shape_bias", "shape_accuracy", "texture_accuracy", "neither"):
        console.print(f"{name.replace('_', ' ')}: {_share(document[name])}")
    for name in ("shape", "texture"):
        rank = document[f"{name}_reciprocal_rank"]
        console.print(f"reciprocal rank of the {name}: {rank['mean']:.2f} [{rank['low']:.2f}, {rank['high']:.2f}]")
    if document["reference"]:
        console.print(f"images counted: {_share(document['reference']['recognised'])}")
    if document["texture_free"]:
        console.print(f"texture-free accuracy: {_share(document['texture_free']['accuracy'])}")
    console.print(f"result: {out}")


@app.command("corruptions")
@imports_torch
def corruptions_command(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    shards: Annotated[Path, typer.Option(help="Shard folder; its test split is corrupted where there are no arrays.")],
    out: Out,
    corruptions: Annotated[
        list[Path] | None, typer.Option(help="Folder of CIFAR-10-C, or an array of it, one a corruption; repeatable.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="The arrays' labels. [default: the folder's]")] = None,
    images: Annotated[int, typer.Option(help="Images of each corruption and severity, chosen by hash.")] = 1000,
    batch_size: ClassifiedAtATime = 100,
    seed: Annotated[int, typer.Option(help="Chooses images and noise.")] = 0,
    trust: Trust = None,
) -> None:
    """Measure a model's errors on corrupted images: published arrays, or a small home-made sweep."""
    from attack.evaluation.corruptions import measure_corruptions

    with shown_progress(console, unit="") as show:
        document = measure_corruptions(
            model, shards, out, corruptions=corruptions or (), labels=labels, images=images,
            batch_size=batch_size, seed=seed, progress=show,
        )  # fmt: skip
    if document["clean_error"]:
        console.print(f"clean error: {_share(document['clean_error'])}")
    for record in document["records"]:
        console.print(f"{record['corruption']} {record['severity']}: {_share(record['error'])}")
    mean, spread = document["mean_corruption_error"].values()
    error = "" if spread is None else f" ± {100 * spread:.1f}"
    console.print(f"mean corruption error ({document['corruptions_from']}): {100 * mean:.1f}{error} %")
    console.print(f"result: {out}")


@app.command("explain")
@imports_torch
def explain_command(
    model: Annotated[list[str], typer.Option(help=f"{MODEL_HELP} Repeat it for each model.")],
    shards: Annotated[Path, typer.Option(help="Shard folder; images of its test split are explained.")],
    out: Annotated[Path, typer.Option(help="Picture to write (PNG).")],
    images: Annotated[int, typer.Option(help="Images to explain.")] = 4,
    parts: Annotated[int, typer.Option(help="Superpixels that an image is cut into.")] = 64,
    samples: Annotated[int, typer.Option(help="Changed images that a model sees for each explanation.")] = 1000,
    seed: Annotated[int, typer.Option(help="Chooses images and changes.")] = 0,
    trust: Trust = None,
) -> None:
    """Draw what models go by on images that all of them get right (LIME; paper, Figure 6)."""
    from attack.evaluation.explain import explain_models
    from attack.evaluation.result import check_output
    from attack.report.figures import explanations_png
    from stylize.files import write_atomically

    check_output(out, begins=b"\x89PNG")
    with shown_progress(console, unit="") as show:
        found = explain_models(model, shards, images=images, parts=parts, samples=samples, seed=seed, progress=show)
    write_atomically(out, explanations_png(found, [_short_name(each) for each in model]))
    console.print(f"{out}: {counted(len(found), 'image')}, {counted(len(model), 'model')}")


def _short_name(model: str) -> str:
    path = Path(model)
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if path.is_file() else model


def _share(share: Mapping[str, Any]) -> str:
    if share["share"] is None:
        return "unknown, no image counts"
    low, high = (100 * share[name] for name in ("low", "high"))
    return f"{100 * share['share']:.1f} % [{low:.1f}, {high:.1f}], {share['successes']} of {share['n']}"


# Options of both `run` and `transfer` in the pipeline.
SHARED = ("shards", "images", "epsilon", "batch-size", "seed", "trust")
REPORT_FLAGS = ("across-architectures", "paper")
Shards = Annotated[str, typer.Option(help="Shard folder, or its URL; its test split is attacked.")]


@app.command()
@options_of(AttackConfig)
@imports_torch
def run(
    given: dict[str, Any],
    model: Annotated[list[str], typer.Option(help=f"{MODEL_HELP} Repeat it for each model.")],
    shards: Shards,
    out: Annotated[Path, typer.Option(help="Result to write (JSON); of several models a folder, a result each.")],
    trust: Trust = None,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGigabytes = DEFAULT_GB,
) -> None:
    """Attack models, check the attacks, and write the results; the same command goes on after an interruption."""
    from attack.evaluation.result import Partial, read_result
    from attack.evaluation.run import attack_model
    from attack.evaluation.target import open_model

    config, outs = AttackConfig(**given), _result_files(model, out)
    with local_shards(shards, cache, cache_gb, print_downloaded) as folder:
        for each in model[1:]:
            open_model(each, folder)  # raises before the attacks on others, which may take hours
        for each, file in zip(model, outs, strict=True):
            with shown_progress(console, unit="") as show:
                attack_model(each, folder, file, config, keep_parts=True, progress=show)
            _print_result(read_result(file))
    for file in outs:
        Partial(file, {}).remove()


def _result_files(models: list[str], out: Path) -> list[Path]:
    """Return where each model's result goes: `out` itself of one, else a file in it named for the model."""
    if len(models) == 1:
        return [out]
    names = [_short_name(model).replace(":", ".") for model in models]
    if out.is_file():
        raise InputError(f"--out {out} is a file: give a folder for the results of {len(models)} models.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Two models are called {twice[0]}: attack them by a command each, with an --out each.")
    return [out / f"{name}.json" for name in names]


@app.command()
@options_of(TransferConfig)
@imports_torch
def transfer(
    given: dict[str, Any],
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Models that `train run` wrote.")],
    shards: Shards,
    out: Out,
    trust: Trust = None,
    cache: Cache = DEFAULT_CACHE,
    cache_gb: CacheGigabytes = DEFAULT_GB,
) -> None:
    """Try the adversarial images of each model on every other; `attack report --transfer` takes the file in."""
    from attack.evaluation.transfer import attack_transfer

    config = TransferConfig(**given)
    local = local_shards(shards, cache, cache_gb, print_downloaded)
    with local as folder, shown_progress(console, unit="") as show:
        attack_transfer(models, folder, out, config, progress=show)
    console.print(f"Transfer among {counted(len(models), 'model')}: {out}", highlight=False)


@app.command()
@imports_torch
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
    across_architectures: Annotated[
        bool, typer.Option("--across-architectures", help="Compare models of different architectures too.")
    ] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="Show the paper's figures, tables and numbers beside these.")
    ] = False,
) -> None:
    """Write one page, its figures and tables from results."""
    from attack.report.build import write_report  # here, so that attacks do not depend on the code of figures

    page = write_report(
        results, out, shards=shards or (), transfer=transfer, beside=beside or (), explanations=explanations,
        across=across_architectures, paper=paper, tell=console.print,
    )  # fmt: skip
    console.print(f"Report of {counted(len(results), 'result')}: {page}", highlight=False)


@app.command()
@imports_torch
def export(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Results of `attack run --suite full`.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    dataset: Annotated[str | None, typer.Option(help="RobustBench's name of the data. [default: the shards']")] = None,
) -> None:
    """Write results as RobustBench's `model_info` files."""
    from attack.report.build import export_results

    for path in export_results(results, out, dataset):
        console.print(str(path), highlight=False)


def check_params(path: Path) -> None:
    """Check the pipeline's sections `attack` and `report`; raise `InputError` for the first value that is wrong."""
    section = read_section(path, "attack", ("options", "shared"))
    shared, options = (mapping(section.get(name), f"{path}: attack.{name}") for name in ("shared", "options"))
    if unknown := [name for name in shared if name not in SHARED]:
        raise InputError(f"{path}: attack.shared has no {unknown[0]!r}: give {', '.join(SHARED)}, the rest as options.")
    if misplaced := [name for name in options if name in SHARED]:
        raise InputError(f"{path}: attack.options has {misplaced[0]!r}: give it in attack.shared, for transfers too.")
    check_options(app, "run", shared, f"{path}: attack.shared", ("model", "out"))
    values = parse_options(app, "run", {**shared, **options}, f"{path}: attack.options", ("model", "out"))
    given = {each.name: values[each.name] for each in fields(AttackConfig) if values[each.name] not in (None, [], ())}
    try:
        AttackConfig(**{**given, "epsilons": tuple(given.get("epsilons", AttackConfig.epsilons))})
    except InputError as error:
        raise placed(error, options, f"{path}: attack.options", f"{path}: attack.shared") from None
    known = shard_folders(path)
    check_list([shared.get("shards")], f"{path}: attack.shared.shards", known)
    section = read_section(path, "report", ("shards", *REPORT_FLAGS))
    flags = {name: section[name] for name in REPORT_FLAGS if name in section}
    check_options(app, "report", flags, f"{path}: report")
    check_list(section.get("shards"), f"{path}: report.shards", known)


def _print_result(result: "Result") -> None:
    """Print what attacks left, what the verdicts rest on, and every failed check."""
    from attack.attacks import radius_name
    from attack.evaluation.result import whole_split
    from attack.evaluation.statistics import share

    table = Table(title=f"{result.method} {result.arch} on {result.shards_name}", show_header=False)
    clean, failed = whole_split(result), [check for check in result.checks if not check.passed]
    table.add_row("clean accuracy", f"{clean}, n = {clean.n}")
    for cell, verdict in zip(result.cells, result.verdicts, strict=False):
        radius = f"robust at {radius_name(cell.norm, cell.epsilon)}, n = {len(cell.robust)}"
        table.add_row(radius, f"{share(cell.robust)}: {verdict.word}")
    if not result.cells:
        table.add_row("verdict", result.verdicts[0].word)
    table.add_row("attacks", f"{len(result.attacks)}, {result.document['forwards']:,} forward passes")
    table.add_row("checks", f"{len(result.checks) - len(failed)} of {len(result.checks)} passed")
    table.add_row("seconds", str(result.document["seconds"]))
    table.add_row("result", str(result.path))
    console.print(table)
    for verdict in result.verdicts:
        place = "" if verdict.epsilon is None else f"{radius_name(verdict.norm, verdict.epsilon)}: "
        for reason in verdict.reasons:
            console.print(f"{place}{verdict.word}: {reason}", highlight=False)
    for check in failed:
        console.print(f"Check failed: {check.title}: {check.detail}", style="bold red")


add_check(app, check_params, "attack", "report")
main = partial(run_command_line, app)
