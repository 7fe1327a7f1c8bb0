"""`stylize cue-conflict`: test shards for `attack shape-bias`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stylize.cli.verify_info import failed_text
from stylize.console import console, counted
from stylize.interruption import imports_torch
from stylize.jobs.spec import ShardOptions
from stylize.progress import counted_progress
from stylize.settings import options_of

OPTIONS = (
    *("data", "size", "work_size", "alpha", "seed", "test_fraction", "codec", "quality"),
    *("dtype", "encoder", "decoder"),
)


@options_of(ShardOptions, *OPTIONS)
@imports_torch
def cue_conflict(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    per_class: Annotated[int, typer.Option(min=1, help="Test images of every class.")] = 100,
    max_failures: Annotated[int, typer.Option(help="Unusable images to accept; they are recorded.")] = 0,
    texture_free: Annotated[bool, typer.Option("--texture-free", help="Plain shapes instead (shapes only).")] = False,
) -> None:
    """Make test shards with the shape of one class and the texture of another, for `attack shape-bias`.

    The seed is to be that of the shards that models learn from: it chooses the held-out images too.
    """
    from stylize.jobs.cue_conflict import CUE_CONFLICT, TEXTURE_FREE, make_cue_set, open_cue_set

    kind = TEXTURE_FREE if texture_free else CUE_CONFLICT
    cues = open_cue_set(ShardOptions(**given), per_class, kind)
    with counted_progress(console, f"Making {kind} images", cues.spec["counts"]["test"]) as report:
        manifest = make_cue_set(cues, out, max_failures, report)
    console.print(f"{out}: {counted(manifest.samples('test'), f'{kind} test image')}{failed_text(manifest)}")
