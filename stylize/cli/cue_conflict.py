"""The command `stylize cue-conflict`."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.weights import ENCODER_HELP
from stylize.command_line import console
from stylize.runs.cue_conflict import CUE_CONFLICT, TEXTURE_FREE, make_cue_set, open_cue_set
from stylize.runs.progress import images_progress
from stylize.runs.spec import ShardOptions
from stylize.shards.manifest import FAILURES_NAME
from stylize.wording import counted

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
