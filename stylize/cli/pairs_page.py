"""`stylize preview --shards DIR -o pairs.html`: one page of pairs, each under a slider from original to copy."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from stylize.cli.tools import counts_line
from stylize.console import InputError, literal
from stylize.files import given_name
from stylize.shards.decode import PictureError, decode_picture
from stylize.shards.manifest import Manifest, read_manifest
from stylize.shards.remote import ShardFiles, is_url, shard_files
from stylize.shards.shard import Sample, index_shard, open_shard, read_sample

PAGE_CLASSES = 20
PAIRS_PER_CLASS = 6  # of a style each, where there are so many
PAGE_FLAGS = 24  # flagged samples whose pairs are shown, and flags that are listed
LARGEST_SIDE = 480  # pixels; larger pictures are scaled down
SMALL_SIDE = 160  # pixels, below which a picture is shown with its pixels as squares


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
    enough = min(PAIRS_PER_CLASS, len(manifest.spec["styles"]))
    wanted, missing = set(range(min(PAGE_CLASSES, len(manifest.class_names)))), set(reasons)
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
        return [
            Pair(*shared, literal(str(style)), alpha, reason and literal(reason), original, copy, side < SMALL_SIDE)
            for style, alpha, (copy, _) in zip(
                metadata["styles"], alphas, (_data_url(copy, codec) for copy in sample.styled), strict=True
            )
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
        pairs = sorted(
            by_class[label].values(), key=lambda pair: names.index(pair.style) if pair.style in names else -1
        )
        classes[f"{literal(manifest.class_names[label])} ({label})"] = pairs[:PAIRS_PER_CLASS]
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
        more_classes=max(0, len(manifest.class_names) - PAGE_CLASSES),
    )
    return page, len(flagged) + sum(map(len, classes.values()))
