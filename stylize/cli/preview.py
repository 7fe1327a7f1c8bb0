"""`stylize preview`: contact sheets of stylized pictures, or of a shard folder's pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps

from stylize.console import InputError, console, counted, literal
from stylize.console.settings import options_of
from stylize.files import write_atomically
from stylize.interruption import imports_torch
from stylize.jobs.spec import ShardOptions
from stylize.networks.limits import MIN_SIDE
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.manifest import Manifest, read_manifest
from stylize.shards.remote import ShardFiles, shard_files
from stylize.shards.shard import Sample, read_shard
from stylize.sources.folder import list_pictures

if TYPE_CHECKING:
    from stylize.networks.styles import Style
    from stylize.networks.stylizer import Stylizer

MARGIN = 6
LABEL_HEIGHT = 18
LABEL_LETTERS = 24
SHEET_CLASSES = 20
PAIRS_PER_CLASS = 4
Row = Sequence[Image.Image]


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
    if bool(image) == bool(shards):
        raise InputError("Give either pictures to stylize or --shards with a shard folder.")
    if output.suffix.lower() in (".html", ".htm"):
        if not shards:
            raise InputError(f"{output} is a page of pairs: give --shards, or a PNG for a sheet of pictures.")
        from stylize.cli.pairs_page import render_pairs

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


def _stylized(images: Sequence[Path], size: int, options: ShardOptions) -> Image.Image:
    from stylize.networks.styles import load_styles
    from stylize.networks.stylizer import Stylizer
    from stylize.networks.weights import load_pair

    pair = load_pair(options.encoder, options.decoder)
    styles = load_styles(options.style, pair.decoder_sha256)
    return style_sheet(Stylizer(pair.encoder.network, pair.decoder, styles), styles, images, size)


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
        while label and font.getlength(label) > tile:
            label = label[:-1]
        draw.text((left + column * (tile + MARGIN), MARGIN), label, "black", font)
    for row, (pictures, label) in enumerate(zip(rows, row_labels, strict=True)):
        top = LABEL_HEIGHT + MARGIN + row * (tile + MARGIN)
        draw.text((MARGIN, top + tile // 2 - 8), label, "black", font)
        for column, picture in enumerate(pictures):
            resampling = Image.Resampling.NEAREST if picture.width < tile else Image.Resampling.BICUBIC
            padded = ImageOps.pad(picture, (tile, tile), resampling, "white")
            sheet.paste(padded, (left + column * (tile + MARGIN), top))
    return sheet


def style_sheet(stylizer: "Stylizer", styles: "Sequence[Style]", images: Sequence[Path], size: int) -> Image.Image:
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


def shard_sheet(shards: str | Path, tile: int = 96) -> Image.Image:
    """Lay out the first pairs of every class (of the first 20) of a folder of shards or its URL, a row a class.

    A content picture stands beside its stylized copies; a class without pairs has no row.
    """
    with shard_files(shards) as files:
        manifest = read_manifest(files.folder)
        pairs = _first_pairs(files, manifest)
    rows = [[picture for sample in samples for picture in _pictures(sample)] for samples in pairs.values()]
    if not rows:
        raise InputError(f"{shards} has no training pairs to show.")
    names = [manifest.class_names[label][:LABEL_LETTERS] for label in pairs]
    copies = manifest.styles_per_image
    header = ["content", *(f"stylized {k + 1}" if copies > 1 else "stylized" for k in range(copies))]
    return contact_sheet(rows, names, header * PAIRS_PER_CLASS, tile)


def _first_pairs(files: ShardFiles, manifest: Manifest) -> dict[int, list[Sample]]:
    pairs: dict[int, list[Sample]] = {label: [] for label in range(min(SHEET_CLASSES, len(manifest.class_names)))}
    for shard in manifest.entries("train"):
        with files.lend(shard) as path:
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
