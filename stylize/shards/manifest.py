"""`manifest.json`: what a folder of shards holds and how it was made; written last, its presence means complete."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stylize.console import InputError
from stylize.files import write_atomically
from stylize.shards import CODECS, FORMAT_VERSION, MAX_COPIES

SPLITS = ("train", "test", "val")
MAX_COUNT = 2**53  # beyond it other JSON readers round
MAX_SIDE = 65_535  # of a JPEG, in pixels
MANIFEST_NAME = "manifest.json"
FAILURES_NAME = "failures.jsonl"
ORIGIN_NAME = "origin"  # a file where some shards are not in the folder: the URL behind which they are
SHARD_NAME = re.compile(rf"(?:{'|'.join(SPLITS)})-[0-9]+\.tar")


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
    `flagged` names samples that look wrong; `ignored` counts the source's files that are no pictures, by rule (in JSON
    `left_out`).
    """

    spec: Mapping[str, Any]
    shards: tuple[ShardEntry, ...]
    failures: int = 0
    failures_sha256: str | None = None
    flagged: tuple[Flag, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

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

    def samples(self, split: str | None = None) -> int:
        """Return the number of samples in a split, or in all."""
        return sum(shard.samples for shard in self.shards if split in (None, shard.split))

    @property
    def splits(self) -> list[str]:
        """Splits that have shards, in the order of these."""
        return list(dict.fromkeys(shard.split for shard in self.shards))

    def entries(self, split: str) -> list[ShardEntry]:
        """Return the split's shards in their order."""
        return [shard for shard in self.shards if shard.split == split]

    def copies(self, split: str) -> int:
        """Return the stylized copies of every image of a split."""
        return self.styles_per_image if split == "train" else 0

    def paths(self, directory: Path, split: str) -> list[Path]:
        """Return the split's shard files in their order."""
        return [directory / shard.name for shard in self.entries(split)]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest into a folder and flush it to disk.

    It is canonical JSON (sorted keys, two spaces) with `checksum`, the SHA-256 of the same JSON without it.
    """
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    if ignored := document.pop("ignored"):
        document["left_out"] = ignored
    document["checksum"] = _checksum(document)
    write_atomically(directory / MANIFEST_NAME, _canonical(document).encode())


def _checksum(document: Mapping[str, Any]) -> str:
    payload = _canonical(document).encode("utf-8", "surrogatepass")  # what a reader may be given can hold anything
    return hashlib.sha256(payload).hexdigest()


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Read and check a folder's manifest.

    Raises `InputError` where it is missing, damaged, of another version, changed since it was written, or where its
    counts do not agree.
    """
    manifest, defects = inspect_manifest(directory)
    if defects:
        path = directory / MANIFEST_NAME
        raise InputError(f"{path} is not to be trusted ({'; '.join(defects)}): fetch or make the shards again.")
    return manifest


def inspect_manifest(directory: Path) -> tuple[Manifest, list[str]]:
    """Read a folder's manifest, and name what is wrong in it though it can be read.

    Raises `InputError` where it is missing, of another version, or has fields that cannot be used.
    """
    path = directory / MANIFEST_NAME
    try:
        written = path.read_text(encoding="utf-8")
        document = json.loads(written, parse_constant=_refuse_constant)
        version = document["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(f"{path} has format version {version}; this program reads version {FORMAT_VERSION}.")
        manifest = _from_document(document)
        return manifest, list(_defects(manifest, document, written))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{directory} is not a finished shard folder (no {MANIFEST_NAME}): run `stylize shards` or `dvc pull`."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is damaged ({reason}): fetch or make the shards again.") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which is not JSON")


def _from_document(document: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a parsed document; raise an error of some kind where a field is not what it should be."""
    shards = tuple(ShardEntry(**shard) for shard in document["shards"])
    for shard in shards:
        if not SHARD_NAME.fullmatch(shard.name) or not shard.name.startswith(shard.split):
            raise ValueError(f"a shard named {shard.name!r} in split {shard.split!r}")  # no path may lead elsewhere
        _whole_number(f"samples of {shard.name}", shard.samples)
        _whole_number(f"bytes of {shard.name}", shard.bytes)
        _text(f"sha256 of {shard.name}", shard.sha256)
    flagged = tuple(Flag(**flag) for flag in document.get("flagged", ()))
    for flag in flagged:
        for value in (flag.split, flag.key, flag.reason):
            _text("part of a flagged sample", value)
    failures_sha256 = document.get("failures_sha256")
    if failures_sha256 is not None:
        _text("failures_sha256", failures_sha256)
    _check_spec(document["spec"])
    ignored = dict(document.get("left_out", {}))
    for rule, count in ignored.items():
        _whole_number(f"files ignored as {rule}", count)
    failures = _whole_number("failures", document["failures"])
    return Manifest(document["spec"], shards, failures, failures_sha256, flagged, ignored)


def _defects(manifest: Manifest, document: Mapping[str, Any], written: str) -> Iterator[str]:
    """Yield what is wrong in a usable manifest; its own JSON is checked, so that fields unknown here count too."""
    rest = {name: value for name, value in document.items() if name != "checksum"}
    if document.get("checksum") != _checksum(rest) or written != _canonical(document):
        yield "changed since it was written"
    for name, times in Counter(shard.name for shard in manifest.shards).items():
        if times > 1:
            yield f"{name} is listed {times} times"
    if (found := manifest.samples() + manifest.failures) != manifest.images:
        yield f"{found} samples and failures of {manifest.images} images"
    for split in sorted(manifest.splits):
        if (held := manifest.samples(split)) > (images := manifest.spec["counts"].get(split, 0)):
            yield f"{held} samples of {images} images in {split}"


def _whole_number(name: str, value: object, low: int = 0, high: int = MAX_COUNT) -> int:
    """Return the value where it is an integer in [low, high], else raise `ValueError`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {_short(value)}, not a whole number from {low} to {high}")
    return value


def _text(name: str, value: object) -> str:
    """Return the value where it is a string with a character, else raise `ValueError`."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {_short(value)}, not a text")
    return value


def _check_spec(spec: Mapping[str, Any]) -> None:
    """Raise an error where a part of the specification that readers use is missing or not what it should be."""
    names, styles = spec["class_names"], spec["styles"]
    for field_name, value in (("class_names", names), ("styles", styles)):
        if not isinstance(value, list):
            raise ValueError(f"{field_name} is {_short(value)}, not a list")
    repeated = [name for name, count in Counter(_text("a class name", name) for name in names).items() if count > 1]
    if repeated or not names:
        raise ValueError(f"class_names name {_short(repeated[0])} twice" if names else "class_names are empty")
    for split, count in spec["counts"].items():
        _whole_number(f"counts of {split}", count)
    _whole_number("styles_per_image", spec["styles_per_image"], 0, MAX_COPIES)
    for style in styles:
        _text("a style's name", style["name"])
    if spec.get("size") is not None:
        _whole_number("size", spec["size"], 1, MAX_SIDE)
    if spec.get("codec", CODECS[0]) not in CODECS:
        raise ValueError(f"codec is {_short(spec['codec'])}, not one of {', '.join(CODECS)}")


def _short(value: object) -> str:
    """Return a value as one short line: what a stranger wrote may be long."""
    line = repr(value)
    return line if len(line) <= 60 else f"{line[:57]}..."
