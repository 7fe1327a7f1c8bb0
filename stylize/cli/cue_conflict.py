"""`stylize cue-conflict`: test shards for `attack shape-bias`."""

from pathlib import Path
from typing import Annotated

import typer

from stylize.cli.verify_info import failed_text
from stylize.console import console, counted
from stylize.interruption import imports_torch
from stylize.jobs.spec import Alpha, Codec, Decoder, Encoder, Quality, ShardOptions, Size, TestFraction, WorkSize
from stylize.progress import counted_progress

PER_CLASS = 100
SEED_HELP = "Chooses textures, order and held-out images; give that of the shards that models learn from."
DATA_HELP = "shapes (drawn exactly), cifar10, cifar100, or a folder or zip of class folders."


@imports_torch
def cue_conflict(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    data: Annotated[str, typer.Option(help=DATA_HELP)] = ShardOptions.data,
    per_class: Annotated[int, typer.Option(min=1, help="Test images of every class.")] = PER_CLASS,
    size: Size = None,
    work_size: WorkSize = None,
    alpha: Alpha = ShardOptions.alpha,
    seed: Annotated[int, typer.Option(min=0, help=SEED_HELP)] = ShardOptions.seed,
    test_fraction: TestFraction = ShardOptions.test_fraction,
    codec: Codec = ShardOptions.codec,
    quality: Quality = ShardOptions.quality,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = ShardOptions.dtype,
    encoder: Encoder = None,
    decoder: Decoder = None,
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
    texture_free: Annotated[bool, typer.Option("--texture-free", help="Plain shapes instead (shapes only).")] = False,
) -> None:
    """Make test shards with the shape of one class and the texture of another, for `attack shape-bias`."""
    from stylize.jobs.cue_conflict import CUE_CONFLICT, TEXTURE_FREE, make_cue_set, open_cue_set

    options = ShardOptions(
        data=data, size=size, work_size=work_size, alpha=alpha, seed=seed, test_fraction=test_fraction,
        codec=codec, quality=quality, dtype=dtype, encoder=encoder, decoder=decoder,
    )  # fmt: skip
    kind = TEXTURE_FREE if texture_free else CUE_CONFLICT
    cues = open_cue_set(options, per_class, kind)
    with counted_progress(console, f"Making {kind} images", cues.spec["counts"]["test"]) as report:
        manifest = make_cue_set(cues, out, max_failures, report)
    console.print(f"{out}: {counted(manifest.samples('test'), f'{kind} test image')}{failed_text(manifest)}")
