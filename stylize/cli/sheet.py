"""Contact sheets of stylized pictures, or of a shard folder's pairs, and a page of these.

On the page (.html) each pair lies under a slider from original to copy.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont, ImageOps

from stylize.cli.tools import counts_line
from stylize.console import InputError, literal
from stylize.files import given_name
from stylize.networks import MIN_SIDE
from stylize.shards import Sample, index_shard, open_shard, read_sample, read_shard
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.manifest import Manifest, read_manifest
from stylize.shards.remote import ShardFiles, is_url, shard_files
from stylize.sources.folder import list_pictures

if TYPE_CHECKING:
    from stylize.networks.styles import Style
    from stylize.networks.stylizer import Stylizer

MARGIN = 6
LABEL_HEIGHT = 18
LABEL_LETTERS = 24
CLASSES = 20  # that a sheet or a page of pairs shows
SHEET_PAIRS = 4  # of a class
PAGE_PAIRS = 6  # of a class, of a style each where there are so many
PAGE_FLAGS = 24  # flagged samples whose pairs are shown, and flags that are listed
LARGEST_SIDE = 480  # pixels; larger pictures of a page are scaled down
SMALL_SIDE = 160  # pixels, below which a page shows a picture with its pixels as squares
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
    return contact_sheet(rows, names, header * SHEET_PAIRS, tile)


def _first_pairs(files: ShardFiles, manifest: Manifest) -> dict[int, list[Sample]]:
    pairs: dict[int, list[Sample]] = {label: [] for label in range(min(CLASSES, len(manifest.class_names)))}
    for shard in manifest.entries("train"):
        with files.lend(shard) as path:
            for sample in read_shard(path):
                if sample.label in pairs and len(pairs[sample.label]) < SHEET_PAIRS:
                    pairs[sample.label].append(sample)
                if all(len(samples) == SHEET_PAIRS for samples in pairs.values()):
                    return pairs
    return {label: samples for label, samples in pairs.items() if samples}


def _pictures(sample: Sample) -> list[Image.Image]:
    try:
        return [decode_picture(data) for data in (sample.content, *sample.styled)]
    except PictureError as error:
        raise InputError(f"A picture of sample {sample.key} {error}: run `stylize verify` on the folder.") from None


@dataclass(frozen=True)
class Pair:
    """An original and one of its copies, as data URLs, and what the page says of them."""

    key: str
    class_name: str
    source: str
    style: str
    alpha: float | None
    reason: str | None
    original: str
    copy: str
    small: bool


def render_pairs(shards: str | Path) -> tuple[str, int]:
    """Return a page of a folder's pairs, or of its URL's, and how many it shows: what was flagged, then by class.

    Of each of the first 20 classes it has six pairs, of different styles where there are so many. The page refers to
    nothing beside it. Raises `InputError` where there are no pairs, or a picture cannot be read.
    """
    with shard_files(shards) as files:
        manifest = read_manifest(files.folder)
        reasons: dict[str, str] = {}
        for flag in manifest.flagged:
            if flag.split == "train" and len(reasons) < PAGE_FLAGS:
                reasons[flag.key] = "; ".join(filter(None, (reasons.get(flag.key), flag.reason)))
        flagged, by_class = _choose(files, manifest, reasons, with_flags=not is_url(str(shards)))
    if not by_class:
        raise InputError(f"{shards} has no training pairs to show.")
    return _page(shards, manifest, flagged, by_class)


def _choose(
    files: ShardFiles, manifest: Manifest, reasons: Mapping[str, str], *, with_flags: bool
) -> tuple[list[Pair], dict[int, dict[str, Pair]]]:
    """Return the flagged pairs, and pairs by class and style; without `with_flags` no shard is read for flags alone."""
    flagged: list[Pair] = []
    by_class: dict[int, dict[str, Pair]] = {}
    enough = min(PAGE_PAIRS, len(manifest.spec["styles"]))
    wanted, missing = set(range(min(CLASSES, len(manifest.class_names)))), set(reasons)
    for shard in manifest.entries("train"):
        if not wanted and not (missing and with_flags):
            break
        with files.lend(shard) as path, open_shard(path) as file:
            for location in index_shard(path):
                if location.key not in missing and location.label not in wanted:
                    continue
                pairs = _pairs(read_sample(file, location), manifest, reasons.get(location.key))
                if location.key in missing:
                    missing.remove(location.key)
                    flagged += pairs
                if location.label in wanted:
                    own = by_class.setdefault(location.label, {})
                    own |= {pair.style: pair for pair in pairs if pair.style not in own}
                    wanted -= {location.label} if len(own) >= enough else set()
    return flagged, by_class


def _pairs(sample: Sample, manifest: Manifest, reason: str | None) -> list[Pair]:
    codec, metadata = manifest.spec["codec"], sample.metadata
    try:
        original, side = _data_url(sample.content, codec)
        shared = literal(sample.key), literal(manifest.class_names[sample.label]), literal(str(metadata["source"]))
        alphas = metadata.get("alphas") or [metadata.get("alpha")] * len(sample.styled)
        copies = [_data_url(copy, codec)[0] for copy in sample.styled]
        return [
            Pair(*shared, literal(str(style)), alpha, reason and literal(reason), original, copy, side < SMALL_SIDE)
            for style, alpha, copy in zip(metadata["styles"], alphas, copies, strict=True)
        ]
    except PictureError as error:
        raise InputError(f"A picture of sample {sample.key} {error}: run `stylize verify` on the folder.") from None
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f"Sample {sample.key} does not say what it is: run `stylize verify` on the folder.") from None


def _data_url(data: bytes, codec: str) -> tuple[str, int]:
    """Return a picture to put into the page, scaled down where it is large, and its shorter side."""
    picture = decode_picture(data)
    side, kind = min(picture.size), "jpeg" if codec == "jpg" else codec
    if max(picture.size) > LARGEST_SIDE:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BICUBIC)
        buffer, kind = io.BytesIO(), "jpeg"
        picture.save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", side


def _page(
    shards: str | Path, manifest: Manifest, flagged: list[Pair], by_class: dict[int, dict[str, Pair]]
) -> tuple[str, int]:
    names, shown = [literal(name) for name in manifest.style_names], {pair.key for pair in flagged}
    classes: dict[str, list[Pair]] = {}
    for label in sorted(by_class):
        own = by_class[label].values()
        pairs = sorted(own, key=lambda pair: names.index(pair.style) if pair.style in names else -1)
        classes[f"{literal(manifest.class_names[label])} ({label})"] = pairs[:PAGE_PAIRS]
    environment = Environment(
        loader=PackageLoader("stylize.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("pairs.html.j2").render(
        name=literal(str(shards) if is_url(str(shards)) else given_name(Path(shards))),
        counts=counts_line(manifest),
        flagged=flagged,
        others=[flag for flag in manifest.flagged if flag.split != "train" or flag.key not in shown][:PAGE_FLAGS],
        total_flagged=len(manifest.flagged),
        classes=classes,
        more_classes=max(0, len(manifest.class_names) - CLASSES),
    )
    return page, len(flagged) + sum(map(len, classes.values()))
