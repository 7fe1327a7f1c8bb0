"""Stylize image data sets with AdaIN into paired WebDataset shards."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from stylize.cli.fit import evaluate_decoder_command, fit_decoder_command, fit_styles_command
from stylize.cli.shards import (
    ENGINE_HELP,
    ONLY_HELP,
    cue_conflict_command,
    ignored_text,
    make_on_ray,
    make_only,
    plan_line,
    print_summary,
    publish_command,
    shard_sheet,
    style_sheet,
    uses_ray,
)
from stylize.cli.tools import (
    diff_command,
    index_command,
    info_command,
    merge_command,
    pack_command,
    rederive_command,
    unpack_command,
    upload_command,
    verify_command,
)
from stylize.cli.weights import ENCODER_HELP, weights_app
from stylize.console import InputError, command_app, console, counted, print_notice, run_command_line
from stylize.jobs.job import Job, open_job
from stylize.jobs.make_shard import small_images_note
from stylize.jobs.output import damaged_files, find_finished, needs_retry
from stylize.jobs.run import Effort, estimate_run, images_progress, make_shards
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import stylization_flops
from stylize.networks.devices import matrix_rate
from stylize.networks.styles import check_style_exists, load_styles
from stylize.networks.stylizer import COLOURS, Stylizer
from stylize.networks.weights import load_pair
from stylize.params import (
    PARAMS,
    check_options,
    check_set_name,
    imported_folders,
    mapping,
    parse_options,
    placed,
    read_section,
)
from stylize.shards.verify import quick_defects
from stylize.sources.source import check_source_exists, export_images, open_source
from stylize.sources.splits import check_fraction


def check_params(app: typer.Typer, path: Path) -> None:
    """Check the sections `data` and `stylize`; raise `InputError` for the first value that is wrong."""
    data = read_section(path, "data")
    if not isinstance(data.get("source"), str):
        raise InputError(f"{path}: data: source is {data.get('source')!r}: give a data set's name or a path, as text.")
    values = parse_options(app, "images", data, f"{path}: data", ("out", "data"))
    try:
        check_fraction(values["test_fraction"])
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
    given = {field.name: values[field.name] for field in fields(ShardOptions)}
    ShardOptions(**{**given, "style": tuple(values["style"])})


app = command_app(__doc__)
app.command("cue-conflict")(cue_conflict_command)
app.command("fit-decoder")(fit_decoder_command)
app.command("fit-styles")(fit_styles_command)
app.command("evaluate-decoder")(evaluate_decoder_command)
app.command("publish")(publish_command)
app.command("diff")(diff_command)
app.command("merge")(merge_command)
app.command("rederive")(rederive_command)
app.command("pack")(pack_command)
app.command("unpack")(unpack_command)
app.command("verify")(verify_command)
app.command("index")(index_command)
app.command("info")(info_command)
app.command("upload")(upload_command)
app.add_typer(weights_app, name="weights")
default = ShardOptions()

STYLE_HELP = "Picture, folder, zip, built-in or fitted style; repeat for more; `patterns` for all built-in ones."
BACKEND_HELP = "auto (torch), torch, or openvino on CPUs, whose int8 is faster and not the same pixels."
DTYPE_HELP = "auto, float32, bfloat16 or float16 for torch; int8 (auto) or bfloat16 for openvino."
DATA_HELP = (
    "shapes, cifar10, cifar100, imagenet100:FOLDER, a folder or zip of class folders, maybe in train/, test/ and val/, "
    "or a WebDataset: a folder of tars, or their paths with braces or wildcards."
)
TRANSFER_HELP = "features (AdaIN); colours, their means and deviations alone, without networks; or both."
DECODER_HELP = "Decoder file that belongs to the encoder; else the shipped one."
RETRY_HELP = "Make the shards of a finished folder again that lack images or whose images changed."
SHARDS = Path("data/shards")
MACHINE_SECONDS = 0.2  # in which the machine's rate is measured


@app.command()
def shards(
    style: Annotated[list[str], typer.Option(help=STYLE_HELP)] = list(default.style),  # noqa: B006
    data: Annotated[str, typer.Option(help=DATA_HELP)] = default.data,
    out: Annotated[Path | None, typer.Option(help="Folder to make; data/shards/STYLE if not given.")] = None,
    size: Annotated[int | None, typer.Option(help="Scale and crop to N × N pixels; else the images' own size.")] = None,
    work_size: Annotated[int | None, typer.Option(help="Short side while stylizing, if not --size.")] = None,
    style_size: Annotated[int | None, typer.Option(help="Short side of style pictures. [default: 256]")] = None,
    alpha: Annotated[float, typer.Option(help="0 keeps the content's style, 1 takes the style's.")] = default.alpha,
    transfer: Annotated[str, typer.Option(help=TRANSFER_HELP)] = default.transfer,
    styles_per_image: Annotated[int, typer.Option(help="Stylized copies of every image.")] = default.styles_per_image,
    seed: Annotated[int, typer.Option(help="Chooses styles, order and held-out images.")] = default.seed,
    limit: Annotated[int | None, typer.Option(help="At most N images of every split.")] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Held-out fraction where the data have no test split; 0 for no test split.")
    ] = default.test_fraction,
    codec: Annotated[str, typer.Option(help="jpg, png or webp.")] = default.codec,
    quality: Annotated[int, typer.Option(help="1 to 100.")] = default.quality,
    backend: Annotated[str, typer.Option(help=BACKEND_HELP)] = default.backend,
    dtype: Annotated[str, typer.Option(help=DTYPE_HELP)] = default.dtype,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
    decoder: Annotated[Path | None, typer.Option(help=DECODER_HELP)] = None,
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help=RETRY_HELP)] = False,
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "local",
    only: Annotated[str | None, typer.Option(help=ONLY_HELP)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would make and take, from a probe.")] = False,
) -> None:
    """Make shards of originals and stylized copies; run the same command again to go on after an interruption."""
    options = ShardOptions(
        style=tuple(style), data=data, size=size, work_size=work_size, style_size=style_size, alpha=alpha,
        transfer=transfer, styles_per_image=styles_per_image, seed=seed, limit=limit, test_fraction=test_fraction,
        codec=codec, quality=quality, backend=backend, dtype=dtype, encoder=encoder, decoder=decoder,
    )  # fmt: skip
    out = out or SHARDS / "-".join(Path(name).stem for name in style)
    if uses_ray(engine, only) and not dry_run:
        make_on_ray(options, out, max_failures, retry_failed)
        return
    job = open_job(options)
    if dry_run:
        _print_plan(job, out, retry_failed)
        return
    if only:
        make_only(job, out, only, max_failures, retry_failed)
        return
    with images_progress(console, "Stylizing", sum(job.spec.counts.values()), _effort(job)) as report:
        manifest = make_shards(job, out, max_failures, report, retry_failed=retry_failed, notice=print_notice)
    print_summary(out, manifest, "".join(f"; {note}" for note in job.source.notes))


def _effort(job: Job) -> Effort | None:
    """Return what an image of one size costs in the networks, and what torch reaches here in the job's type."""
    spec, stylizer = job.spec, job.stylizer
    if spec.size is None or spec.transfer == COLOURS:
        return None
    side = spec.work_size or spec.size
    rate = matrix_rate(stylizer.device, stylizer.dtype, MACHINE_SECONDS) if stylizer.backend == "torch" else 0.0
    return Effort(stylization_flops(side, side) * spec.styles_per_image, spec.counts["train"], rate)


def _print_plan(job: Job, out: Path, retry_failed: bool) -> None:
    finished = find_finished(out, job.spec, other_images=retry_failed)
    if finished and not needs_retry(finished, job.spec, retry_failed) and not damaged_files(finished, out):
        console.print(f"{out}: finished, nothing to do")
        return
    estimate = estimate_run(job, out)
    console.print(f"{out}: {'at most ' if finished else ''}{plan_line(estimate)}; nothing was written")
    if not finished and (advice := small_images_note(job.spec, job.source)):
        print_notice(advice)
    if estimate.bytes > estimate.free:
        console.print("Warning: the disk is too small for this", style="yellow")


@app.command()
def images(
    out: Annotated[Path, typer.Option(help="Zip to write.")] = Path("data/images.zip"),
    data: Annotated[str, typer.Option("--data", "--source", help=DATA_HELP)] = default.data,
    seed: Annotated[int, typer.Option(help="Chooses held-out images.")] = default.seed,
    test_fraction: Annotated[
        float, typer.Option(help="Held-out fraction where the data have no test split; 0 for no test split.")
    ] = default.test_fraction,
) -> None:
    """Write a data set's untouched images as one zip of class folders."""
    source = open_source(data, seed=seed, test_fraction=test_fraction)
    count = export_images(source, out)
    notes = "".join(f"; {note}" for note in source.notes)
    console.print(f"{out}: {counted(count, 'image')}{ignored_text(source.ignored)}{notes}")


@app.command()
def preview(
    image: Annotated[list[Path] | None, typer.Argument(help="Pictures or folders to stylize.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The sheet to write.")] = Path("preview.png"),
    style: Annotated[list[str], typer.Option(help=STYLE_HELP)] = list(default.style),  # noqa: B006
    shards: Annotated[Path | None, typer.Option(help="Show this shard folder's pairs by class instead.")] = None,
    size: Annotated[int, typer.Option(help="Side of the stylized pictures, in pixels.")] = 224,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
    decoder: Annotated[Path | None, typer.Option(help=DECODER_HELP)] = None,
) -> None:
    """Write a contact sheet of pictures × styles, or of a shard folder's pairs."""
    if bool(image) == bool(shards):
        raise InputError("Give either pictures to stylize or --shards with a shard folder.")
    sheet = shard_sheet(shards) if shards else None
    if sheet is None:
        pair = load_pair(encoder, decoder)
        styles = load_styles(style, pair.decoder_sha256)
        sheet = style_sheet(Stylizer(pair.encoder.network, pair.decoder, styles), styles, image or [], size)
    try:
        sheet.save(output)
    except (OSError, ValueError) as error:
        raise InputError(f"{output} cannot be written ({error}): give the path of a PNG or JPEG.") from None
    console.print(f"{output}: {sheet.width} × {sheet.height} pixels")


@app.command("check-params")
def check_params_command(params: Annotated[Path, typer.Argument(help="The pipeline's parameters.")] = PARAMS) -> None:
    """Check the sections data and stylize of params.yaml, before `dvc repro` runs anything with them."""
    check_params(app, params)
    console.print(f"{params}: data and stylize are right")


def main() -> None:
    """Entry point of the console script."""
    run_command_line(app)
