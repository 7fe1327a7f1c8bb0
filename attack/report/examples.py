"""Pictures for the report: the first stylized pair of each class in a shard folder."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from stylize.errors import InputError
from stylize.shards.format import SampleLocation, index_shard, read_sample
from stylize.shards.manifest import read_manifest
from stylize.shards.spans import open_shard
from stylize.sources.pictures import PictureError, decode_picture
from stylize.wording import literal

MOST_CLASSES = 12
LARGEST_SIDE = 160


@dataclass(frozen=True)
class Example:
    """An original and its first stylized copy as `data:` URLs of PNG images."""

    class_name: str
    original: str
    styled: str


def read_examples(shards: Path) -> list[Example]:
    """Return the first pair of each class, at most twelve; raise `InputError` where shards are missing or damaged."""
    manifest = read_manifest(shards)
    wanted = min(len(manifest.class_names), MOST_CLASSES)
    first: dict[int, SampleLocation] = {}
    for path in manifest.paths(shards, "train"):
        for location in index_shard(path):
            if location.styled and location.label < wanted:
                first.setdefault(location.label, location)
            if len(first) == wanted:
                break
    return [_read(first[label], manifest.class_names[label]) for label in sorted(first)]


def _read(location: SampleLocation, class_name: str) -> Example:
    with open_shard(location.shard) as file:
        sample = read_sample(file, location)
    try:
        return Example(literal(class_name), _data_url(sample.content), _data_url(sample.styled[0]))
    except PictureError as error:
        raise InputError(f"{location.shard}: sample {location.key} {error}: make the shard again.") from None


def _data_url(encoded: bytes) -> str:
    picture = decode_picture(encoded)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_png(path: Path) -> bytes:
    """Return the bytes of a PNG picture; raise `InputError` where there is none."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): run `attack explain` first.") from None
    if not payload.startswith(b"\x89PNG\r\n"):
        raise InputError(f"{path} is no PNG picture: give the one that `attack explain` wrote.")
    return payload
