"""`manifest.json`: what a folder of shards holds and how it was made; written last, its presence means complete."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stylize.errors import InputError
from stylize.shards.format import FORMAT_VERSION, MAX_COPIES

MANIFEST_NAME = "manifest.json"
FAILURES_NAME = "failures.jsonl"
SHARD_NAME = re.compile(r"(?:train|test|val)-[0-9]+\.tar")


@dataclass(frozen=True)
class ShardEntry:
    """One shard: file name, split (`train` has pairs, `test` and `val` originals only), samples, bytes and SHA-256."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Flag:
    """A sample that looks wrong but was written, and why."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The full specification of a run (see `docs/shard-format.md`), its shards, and what went wrong.

    `failures` counts the images that could not be used; `failures.jsonl` names them and has the hash `failures_sha256`.
    `flagged` names samples that look wrong; `left_out` counts the source's files that are no pictures, by rule.
    """

    spec: Mapping[str, Any]
    shards: tuple[ShardEntry, ...]
    failures: int = 0
    failures_sha256: str | None = None
    flagged: tuple[Flag, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """Class names; a label is an index into them."""
        return list(self.spec["class_names"])

    @property
    def styles_per_image(self) -> int:
        """Stylized copies of every training image."""
        return int(self.spec["styles_per_image"])

    @property
    def style_names(self) -> list[str]:
        """Names of the styles that copies may have."""
        return [str(style["name"]) for style in self.spec["styles"]]

    @property
    def images(self) -> int:
        """Number of images that the run was to use."""
        return sum(self.spec["counts"].values())

    def samples(self, split: str) -> int:
        """Return the number of samples in a split."""
        return sum(shard.samples for shard in self.shards if shard.split == split)

    def paths(self, directory: Path, split: str) -> list[Path]:
        """Return the split's shard files in their order."""
        return [directory / shard.name for shard in self.shards if shard.split == split]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest into a folder and flush it to disk."""
    with open(directory / MANIFEST_NAME, "w", encoding="utf-8") as file:
        file.write(render_manifest(manifest))
        file.flush()
        os.fsync(file.fileno())


def render_manifest(manifest: Manifest) -> str:
    """Return canonical JSON (sorted keys, two spaces) with `checksum`, the SHA-256 of the same JSON without it."""
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    if not manifest.left_out:
        del document["left_out"]
    text = _canonical(document).encode("utf-8", "surrogatepass")  # what a reader may be given can hold anything
    document["checksum"] = hashlib.sha256(text).hexdigest()
    return _canonical(document)


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _shard_entry(fields: Mapping[str, Any]) -> ShardEntry:
    entry = ShardEntry(**fields)
    if not SHARD_NAME.fullmatch(entry.name) or not entry.name.startswith(entry.split):
        raise ValueError(f"a shard named {entry.name!r} in split {entry.split!r}")  # no path may lead elsewhere
    for number in (entry.samples, entry.bytes):
        if type(number) is not int or number < 0:
            raise ValueError(f"{entry.name} with {entry.samples} samples and {entry.bytes} bytes")
    return entry


def _check(manifest: Manifest) -> None:
    """Raise an error of some kind where a part of the specification that readers use is not what it should be."""
    _ = manifest.class_names, manifest.style_names, manifest.images
    if not 0 <= manifest.styles_per_image <= MAX_COPIES:
        raise ValueError(f"{manifest.styles_per_image} styles per image")


def read_manifest(directory: Path) -> Manifest:
    """Read and check a folder's manifest; raise `InputError` where it is missing, damaged or of another version."""
    path = directory / MANIFEST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(f"{path} has format version {version}; this program reads version {FORMAT_VERSION}.")
        shards = tuple(_shard_entry(shard) for shard in document["shards"])
        flagged = tuple(Flag(**flag) for flag in document.get("flagged", ()))
        failures = int(document["failures"]), document.get("failures_sha256")
        manifest = Manifest(document["spec"], shards, *failures, flagged, dict(document.get("left_out", {})))
        _check(manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{directory} is not a finished shard folder (no {MANIFEST_NAME}): run `stylize shards` first."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error!r}): fetch or make the shards again.") from None
    return manifest
