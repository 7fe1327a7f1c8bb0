"""`stylize preview`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylize.console import InputError, console, counted
from stylize.console.settings import options_of
from stylize.files import write_atomically
from stylize.interruption import imports_torch
from stylize.jobs.spec import ShardOptions
from stylize.networks import MIN_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image


@options_of(ShardOptions, "style", "encoder", "decoder")
@imports_torch
def preview(
    given: dict[str, Any],
    image: Annotated[list[Path] | None, typer.Argument(help="Pictures or folders to stylize.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The sheet to write.")] = Path("preview.png"),
    shards: Annotated[str | None, typer.Option(help="Show the pairs of this folder, or URL, by class instead.")] = None,
    size: Annotated[int, typer.Option(min=MIN_SIDE, help="Side of the stylized pictures, in pixels.")] = 224,
) -> None:
    """Write a contact sheet of pictures × styles, or of a shard folder's pairs, or these as a page (.html)."""
    from stylize.cli.sheet import render_pairs, shard_sheet

    if bool(image) == bool(shards):
        raise InputError("Give either pictures to stylize or --shards with a shard folder.")
    if output.suffix.lower() in (".html", ".htm"):
        if not shards:
            raise InputError(f"{output} is a page of pairs: give --shards, or a PNG for a sheet of pictures.")
        page, pairs = render_pairs(shards)
        write_atomically(output, page.encode())
        console.print(f"{output}: {counted(pairs, 'pair')}, {len(page) / 1e6:.1f} MB")
        return
    sheet = shard_sheet(shards) if shards else _stylized(image or [], size, ShardOptions(**given))
    try:
        sheet.save(output)
    except (OSError, ValueError) as error:
        raise InputError(f"{output} cannot be written ({error}): give the path of a PNG or JPEG.") from None
    console.print(f"{output}: {sheet.width} × {sheet.height} pixels")


def _stylized(images: Sequence[Path], size: int, options: ShardOptions) -> "Image":
    from stylize.cli.sheet import style_sheet
    from stylize.networks.styles import load_styles
    from stylize.networks.stylizer import Stylizer
    from stylize.networks.weights import load_pair

    pair = load_pair(options.encoder, options.decoder)
    styles = load_styles(options.style, pair.decoder_sha256)
    return style_sheet(Stylizer(pair.encoder.network, pair.decoder, styles), styles, images, size)
