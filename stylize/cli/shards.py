"""What `stylize shards`, `preview` and `cue-conflict` print, draw and ask of executors."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.table import Table

from stylize.cli.weights import ENCODER_HELP
from stylize.console import InputError, console, counted, literal, print_notice
from stylize.jobs.cue_conflict import CUE_CONFLICT, TEXTURE_FREE, make_cue_set, open_cue_set
from stylize.jobs.job import Job, open_job
from stylize.jobs.ray import make_shards_on_ray, ray_pool
from stylize.jobs.run import Estimate, images_progress, make_part, parse_part, publish_parts
from stylize.jobs.spec import ShardOptions
from stylize.networks.adain import MIN_SIDE
from stylize.networks.styles import Style
from stylize.networks.stylizer import Stylizer
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, read_manifest
from stylize.shards.shard import Sample, read_shard
from stylize.sources.folder import list_pictures
from stylize.sources.source import open_source

NAMED_FLAGS = 5


def counts_line(manifest: Manifest) -> str:
    """Return how many pairs, test images and shards there are, their size, and how many images failed."""
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    split_counts = [counted(manifest.samples("train"), "training pair")]
    if validation := manifest.samples("val"):
        split_counts.append(counted(validation, "validation image"))
    counts = f"{', '.join(split_counts)} and {counted(manifest.samples('test'), 'test image')}"
    shards = counted(len(manifest.shards), "shard")
    failed = f"; {counted(manifest.failures, 'image')} failed, see {FAILURES_NAME}" if manifest.failures else ""
    return f"{counts} in {shards}, {megabytes:.1f} MB{ignored_text(manifest.ignored)}{failed}"


def ignored_text(ignored: Mapping[str, int]) -> str:
    """Return how many files were ignored, by rule; nothing for none."""
    if not ignored:
        return ""
    rules = ", ".join(f"{count} {rule}" for rule, count in sorted(ignored.items(), key=itemgetter(1), reverse=True))
    files = counted(sum(ignored.values()), "file that is no picture", "files that are no pictures")
    return f"; {files} ignored ({rules})"


def plan_line(estimate: Estimate) -> str:
    """Return what a run would make and take."""
    minutes, pace = estimate.seconds / 60, estimate.images / max(estimate.seconds, 1e-9)
    disk = f"about {estimate.bytes / 1e6:.1f} MB of {estimate.free / 1e6:.0f} MB free"
    what = f"{counted(estimate.images, 'image')} in {counted(estimate.shards, 'shard')}"
    return f"{what}, {disk}, about {minutes:.1f} min at {pace:.1f} images/s"


def warning_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the first flagged samples, and how many there are."""
    for flag in manifest.flagged[:NAMED_FLAGS]:
        yield f"Warning: {flag.split} {flag.key}: {flag.reason}"
    if len(manifest.flagged) > NAMED_FLAGS:
        yield f"Warning: {len(manifest.flagged)} samples look wrong, all of them in {MANIFEST_NAME} under `flagged`"


def print_summary(directory: Path | str, manifest: Manifest, remark: str = "") -> None:
    """Print what a folder holds, and what looks wrong in it."""
    console.print(f"{directory}: {counts_line(manifest)}{remark}")
    for line in warning_lines(manifest):
        print_notice(line)


def manifest_table(manifest: Manifest, *, title: str) -> Table:
    """Return all that determined a folder's bytes, one line a field."""
    table = Table("", "", show_header=False, title=title)
    for name, value in manifest.spec.items():
        table.add_row(name, _plain(value))
    return table


def _plain(value: object) -> str:
    if isinstance(value, list):
        names = [entry["name"] if isinstance(entry, dict) else str(entry) for entry in value]
        return f"{len(names)}: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return str(value)


ONLY_HELP = "Make the third of 16 parts, 3/16, say in a job array; `stylize publish` joins them."


def make_only(job: Job, out: Path, only: str, max_failures: int, retry_failed: bool) -> None:
    """Make a part of a job's shards and say so."""
    part = parse_part(only)
    if retry_failed:
        raise InputError("--retry-failed makes a finished folder anew: give it without --only.")
    with images_progress(console, "Stylizing", part.images(job.spec)) as report:
        shards = make_part(job, out, part, max_failures, report, print_notice)
    console.print(f"{out}: part {part} is finished, {counted(shards, 'shard')}; then: stylize publish {out}")


def publish_command(
    out: Annotated[Path, typer.Argument(help="The --out of the parts.")],
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
) -> None:
    """Publish a folder whose parts were made by `stylize shards --only`."""
    print_summary(out, publish_parts(out, max_failures))


ENGINES = ("local", "ray")
ENGINE_HELP = "local, or ray: on the cluster at RAY_ADDRESS, else on one started on this machine."


def uses_ray(engine: str, only: str | None) -> bool:
    """Return whether an engine is Ray; raise `InputError` where there is none such, or where it makes no parts."""
    if engine not in ENGINES:
        raise InputError(f"--engine is {engine!r}: give {' or '.join(ENGINES)}.")
    if engine == "ray" and only:
        raise InputError("--only makes a part in this process, and --engine ray all shards: give one of them.")
    return engine == "ray"


def make_on_ray(options: ShardOptions, out: Path, max_failures: int, retry_failed: bool) -> None:
    """Make a job's shards on a cluster and say so."""
    source = open_source(options.data, seed=options.seed, test_fraction=options.test_fraction)
    with (
        ray_pool(partial(open_job, options)) as pool,
        images_progress(console, "Stylizing", sum(pool.spec.counts.values())) as report,
    ):
        manifest = make_shards_on_ray(
            pool, source, out, max_failures, report, retry_failed=retry_failed, notice=print_notice
        )
    print_summary(out, manifest, "".join(f"; {note}" for note in source.notes))


MARGIN = 6
LABEL_HEIGHT = 18
LABEL_LETTERS = 24
SHEET_CLASSES = 20
PAIRS_PER_CLASS = 4
Row = Sequence[Image.Image]


def contact_sheet(
    rows: Sequence[Row], row_labels: Sequence[str], column_labels: Sequence[str], tile: int
) -> Image.Image:
    """Lay out rows of pictures as tiles of `tile` pixels, with labels above the columns and at the left of the rows."""
    font = ImageFont.load_default(size=13)
    row_labels, column_labels = [[literal(label) for label in labels] for labels in (row_labels, column_labels)]
    left = MARGIN + max((round(font.getlength(label)) for label in row_labels), default=0) + MARGIN
    columns = max(len(row) for row in rows)
    width = left + columns * (tile + MARGIN)
    height = LABEL_HEIGHT + MARGIN + len(rows) * (tile + MARGIN)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        draw.text((left + column * (tile + MARGIN), MARGIN), _shorten(label, tile, font), "black", font)
    for row, (pictures, label) in enumerate(zip(rows, row_labels, strict=True)):
        top = LABEL_HEIGHT + MARGIN + row * (tile + MARGIN)
        draw.text((MARGIN, top + tile // 2 - 8), label, "black", font)
        for column, picture in enumerate(pictures):
            resampling = Image.Resampling.NEAREST if picture.width < tile else Image.Resampling.BICUBIC
            sheet.paste(
                ImageOps.pad(picture, (tile, tile), resampling, "white"), (left + column * (tile + MARGIN), top)
            )
    return sheet


def _shorten(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while label and font.getlength(label) > width:
        label = label[:-1]
    return label


def style_sheet(stylizer: Stylizer, styles: Sequence[Style], images: Sequence[Path], size: int) -> Image.Image:
    """Stylize every image with every style: one row an image, the styles themselves in the first row."""
    if size < MIN_SIDE:
        raise InputError(f"--size is {size}: give at least {MIN_SIDE} pixels.")
    files = [file for path in images for file in list_pictures(path)]
    pictures = [ImageOps.fit(style.picture, (size, size)) for style in styles]
    rows: list[Row] = [[Image.new("RGB", (size, size), "white"), *pictures]]
    for file in files:
        try:
            content = ImageOps.fit(decode_picture(file.read()), (size, size), Image.Resampling.BICUBIC)
        except PictureError as error:
            raise InputError(f"{file.root / file.name} {error}: give another picture.") from None
        pixels = np.repeat(np.asarray(content)[None], len(styles), axis=0)
        styled = stylizer(pixels, range(len(styles)), alpha=1.0)
        rows.append([content, *(Image.fromarray(picture) for picture in styled)])
    names = ["", *(style.name for style in styles)]
    return contact_sheet(rows, ["", *(file.stem[:LABEL_LETTERS] for file in files)], names, size)


def shard_sheet(directory: Path, tile: int = 96) -> Image.Image:
    """Lay out the first pairs of every class (of the first 20) of a finished shard folder, a row a class.

    A content picture stands beside its stylized copies; a class without pairs has no row.
    """
    manifest = read_manifest(directory)
    pairs = _first_pairs(manifest.paths(directory, "train"), min(SHEET_CLASSES, len(manifest.class_names)))
    rows = [[picture for sample in samples for picture in _pictures(sample)] for samples in pairs.values()]
    if not rows:
        raise InputError(f"{directory} has no training pairs to show.")
    names = [manifest.class_names[label][:LABEL_LETTERS] for label in pairs]
    copies = manifest.styles_per_image
    header = ["content", *(f"stylized {k + 1}" if copies > 1 else "stylized" for k in range(copies))]
    return contact_sheet(rows, names, header * PAIRS_PER_CLASS, tile)


def _first_pairs(paths: Sequence[Path], classes: int) -> dict[int, list[Sample]]:
    pairs: dict[int, list[Sample]] = {label: [] for label in range(classes)}
    for path in paths:
        for sample in read_shard(path):
            if sample.label in pairs and len(pairs[sample.label]) < PAIRS_PER_CLASS:
                pairs[sample.label].append(sample)
            if all(len(samples) == PAIRS_PER_CLASS for samples in pairs.values()):
                return pairs
    return {label: samples for label, samples in pairs.items() if samples}


def _pictures(sample: Sample) -> list[Image.Image]:
    try:
        return [decode_picture(data) for data in (sample.content, *sample.styled)]
    except PictureError as error:
        raise InputError(f"A picture of sample {sample.key} {error}: run `stylize verify` on the folder.") from None


PER_CLASS = 100
SEED_HELP = "Chooses textures, order and held-out images; give that of the shards that models learn from."
DATA_HELP = "shapes (drawn exactly), cifar10, cifar100, or a folder or zip of class folders."
default = ShardOptions()


def cue_conflict_command(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    data: Annotated[str, typer.Option(help=DATA_HELP)] = default.data,
    per_class: Annotated[int, typer.Option(help="Test images of every class.")] = PER_CLASS,
    size: Annotated[int | None, typer.Option(help="Scale and crop to N × N pixels; else the images' own size.")] = None,
    work_size: Annotated[int | None, typer.Option(help="Short side while stylizing, if not --size.")] = None,
    alpha: Annotated[float, typer.Option(help="Strength of the texture, 0 to 1.")] = default.alpha,
    seed: Annotated[int, typer.Option(help=SEED_HELP)] = default.seed,
    test_fraction: Annotated[
        float, typer.Option(help="Held-out fraction where the data have no split.")
    ] = default.test_fraction,
    codec: Annotated[str, typer.Option(help="jpg, png or webp.")] = default.codec,
    quality: Annotated[int, typer.Option(help="1 to 100.")] = default.quality,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = default.dtype,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP)] = None,
    decoder: Annotated[Path | None, typer.Option(help="Decoder file of the encoder; else the shipped one.")] = None,
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
    texture_free: Annotated[bool, typer.Option("--texture-free", help="Plain shapes instead (shapes only).")] = False,
) -> None:
    """Make test shards with the shape of one class and the texture of another, for `attack shape-bias`."""
    options = ShardOptions(
        data=data, size=size, work_size=work_size, alpha=alpha, seed=seed, test_fraction=test_fraction,
        codec=codec, quality=quality, dtype=dtype, encoder=encoder, decoder=decoder,
    )  # fmt: skip
    kind = TEXTURE_FREE if texture_free else CUE_CONFLICT
    cues = open_cue_set(options, per_class, kind)
    with images_progress(console, f"Making {kind} images", cues.spec["counts"]["test"]) as report:
        manifest = make_cue_set(cues, out, max_failures, report)
    failed = f"; {counted(manifest.failures, 'image')} failed, see {FAILURES_NAME}" if manifest.failures else ""
    console.print(f"{out}: {counted(manifest.samples('test'), f'{kind} test image')}{failed}")
