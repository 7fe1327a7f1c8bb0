"""The commands beyond adversarial attacks: `attack shape-bias`, `attack corruptions` and `attack explain`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stylize.command_line import console
from stylize.wording import counted

MODEL_HELP = "Model that `train run` wrote, or package.module:function."
BatchSize = Annotated[int, typer.Option(help="Images classified at a time.")]
Out = Annotated[Path, typer.Option(help="Result to write (JSON).")]


def shape_bias_command(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    shards: Annotated[Path, typer.Option(help="Folder of `stylize cue-conflict`.")],
    out: Out,
    texture_free: Annotated[
        Path | None, typer.Option(help="Folder of `stylize cue-conflict --texture-free`: accuracy on plain shapes too.")
    ] = None,
    batch_size: BatchSize = 100,
) -> None:
    """Measure whether a model goes by shape or by texture where the two disagree (Geirhos et al. 2019)."""
    from attack.evaluation.shape_bias import measure_shape_bias

    with stage_progress() as show:
        document = measure_shape_bias(
            model, shards, out, texture_free=texture_free, batch_size=batch_size, progress=show
        )
    for name in ("shape_bias", "shape_accuracy", "texture_accuracy", "neither"):
        console.print(f"{name.replace('_', ' ')}: {_share(document[name])}")
    if document["texture_free"]:
        console.print(f"texture-free accuracy: {_share(document['texture_free']['accuracy'])}")
    console.print(f"result: {out}")


def corruptions_command(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    shards: Annotated[Path, typer.Option(help="Shard folder; its test split is corrupted where there are no arrays.")],
    out: Out,
    corruptions: Annotated[
        list[Path] | None, typer.Option(help="Array of CIFAR-10-C's layout, one a corruption; repeatable.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="The arrays' labels.npy.")] = None,
    images: Annotated[int, typer.Option(help="Images of each corruption and severity, chosen by hash.")] = 1000,
    batch_size: BatchSize = 100,
    seed: Annotated[int, typer.Option(help="Chooses images and noise.")] = 0,
) -> None:
    """Measure a model's errors on corrupted images: published arrays, or a small home-made sweep."""
    from attack.evaluation.corruption_errors import measure_corruptions

    with stage_progress() as show:
        document = measure_corruptions(
            model, shards, out, corruptions=corruptions or (), labels=labels, images=images,
            batch_size=batch_size, seed=seed, progress=show,
        )  # fmt: skip
    if document["clean_error"]:
        console.print(f"clean error: {_share(document['clean_error'])}")
    for record in document["records"]:
        console.print(f"{record['corruption']} {record['severity']}: {_share(record['error'])}")
    mean, spread = (document["mean_corruption_error"][name] for name in ("mean", "standard_error"))
    error = "" if spread is None else f" ± {100 * spread:.1f}"
    console.print(f"mean corruption error ({document['corruptions_from']}): {100 * mean:.1f}{error} %")
    console.print(f"result: {out}")


def explain_command(
    model: Annotated[list[str], typer.Option(help=f"{MODEL_HELP} Repeat it for each model.")],
    shards: Annotated[Path, typer.Option(help="Shard folder; images of its test split are explained.")],
    out: Annotated[Path, typer.Option(help="Picture to write (PNG).")],
    images: Annotated[int, typer.Option(help="Images to explain.")] = 4,
    parts: Annotated[int, typer.Option(help="Superpixels that an image is cut into.")] = 64,
    samples: Annotated[int, typer.Option(help="Changed images that a model sees for each explanation.")] = 1000,
    seed: Annotated[int, typer.Option(help="Chooses images and changes.")] = 0,
) -> None:
    """Draw what models go by on images that all of them get right (LIME; paper, Figure 6)."""
    from attack.evaluation.explanations import explain_models
    from attack.evaluation.results import check_output
    from attack.report.explanations import explanations_png
    from stylize.atomic import write_atomically

    check_output(out, begins=b"\x89PNG")
    with stage_progress() as show:
        found = explain_models(model, shards, images=images, parts=parts, samples=samples, seed=seed, progress=show)
    write_atomically(out, explanations_png(found, [_short_name(each) for each in model]))
    console.print(f"{out}: {counted(len(found), 'image')}, {counted(len(model), 'model')}")


def _short_name(model: str) -> str:
    path = Path(model)
    return path.parent.name or path.stem if path.is_file() else model


def _share(share: Mapping[str, Any]) -> str:
    if share["share"] is None:
        return "unknown, no image counts"
    low, high = (100 * share[name] for name in ("low", "high"))
    return f"{100 * share['share']:.1f} % [{low:.1f}, {high:.1f}], {share['successes']} of {share['n']}"


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
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
