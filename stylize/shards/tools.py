"""`stylize diff` and `stylize unpack`: folders of shards compared, and turned back into class folders."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stylize.console import InputError
from stylize.files import TEMPORARY_SUFFIX, file_sha256, write_atomically
from stylize.shards.index import differs
from stylize.shards.manifest import MANIFEST_NAME, SPLITS, Manifest, read_manifest
from stylize.shards.remote import shard_files
from stylize.shards.shard import Sample, SampleLocation, index_shard, open_shard, read_sample, read_shard

SHOWN_NAMES = 12
PARTS = ("content", "styled", "label", "metadata")


@dataclass(frozen=True)
class SplitDiff:
    """One split's samples by key: those in one folder alone, and how many of the common ones differ in what."""

    split: str
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    common: int = 0
    differing: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Return whether the folders agree in this split."""
        return not (self.only_first or self.only_second or self.differing)

    def parts(self) -> Counter[str]:
        """Return how many samples differ in each of `PARTS`."""
        return Counter(part for parts in self.differing.values() for part in parts)


def diff_specs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Yield (field, value in the first, value in the second) of the fields in which two specifications differ."""
    for name in sorted({*first, *second}):
        values = first.get(name), second.get(name)
        if values[0] != values[1]:
            yield name, *values


def spec_text(value: object) -> str:
    """Return a value of a specification for people; of a list the number and the first names."""
    if isinstance(value, list):
        names = [entry["name"] if isinstance(entry, dict) else str(entry) for entry in value]
        return f"{len(names)}: {', '.join(names[:SHOWN_NAMES])}{' …' if len(names) > SHOWN_NAMES else ''}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    return "not set" if value is None else str(value)


def diff_samples(first: Path, second: Path) -> Iterator[SplitDiff]:
    """Yield the differences of every split that either folder has; samples are matched by key, whatever their order.

    Raises `InputError` where a folder cannot be read.
    """
    manifests = read_manifest(first), read_manifest(second)
    for split in SPLITS:
        if any(manifest.samples(split) for manifest in manifests):
            one, other = locate(first, manifests[0], split), locate(second, manifests[1], split)
            common = sorted(one.keys() & other.keys())
            differing = {key: parts for key in common if (parts := tuple(_differing(one[key], other[key])))}
            only = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
            yield SplitDiff(split, *only, len(common), differing)


def locate(directory: Path, manifest: Manifest, split: str) -> dict[str, SampleLocation]:
    """Return where a split's samples lie, by key and in order; raise `InputError` where a shard cannot be read."""
    located: dict[str, SampleLocation] = {}
    for path in manifest.paths(directory, split):
        for location in index_shard(path):
            if location.key in located:
                raise InputError(f"{path} holds sample {location.key} again: run `stylize verify` on its folder.")
            located[location.key] = location
    return located


def read_located(location: SampleLocation) -> Sample:
    """Read a sample from its shard."""
    with open_shard(location.shard) as file:
        return read_sample(file, location)


def _differing(one: SampleLocation, other: SampleLocation) -> Iterator[str]:
    first, second = read_located(one), read_located(other)
    return (part for part in PARTS if getattr(first, part) != getattr(second, part))


RECORD = "unpacked-from.json"  # the shards' manifest; no picture, and so ignored where the folder is read again
ORIGINAL, STYLIZED = "original", "stylized"
MAX_NAME = 200  # bytes, of 255 that file systems take


def unpack_shards(shards: str | Path, out: Path, report: Callable[[int], None] = lambda images: None) -> Manifest:
    """Write every picture of a folder or URL to `out/original/SPLIT/CLASS/KEY.jpg` and `out/stylized/…`.

    Returns the manifest.
    With several copies of an image the folders are `stylized0`, `stylized1` … . Each shard is compared with its SHA-256
    first, each file is written whole or not at all, and one that is there with the same bytes is left as it is: the
    same call goes on after an interruption.
    Raises `InputError` where the shards are damaged, `out` holds something else, or it cannot be written.
    """
    with shard_files(shards) as files:
        manifest = read_manifest(files.folder)
        folders = [class_folder(name) for name in manifest.class_names]
        _claim(out, (files.folder / MANIFEST_NAME).read_bytes())
        for shard in manifest.shards:
            with files.lend(shard) as path:
                if not path.is_file() or file_sha256(path) != shard.sha256:
                    raise differs(path)
                for sample in read_shard(path):
                    if sample.label >= len(folders):
                        raise InputError(
                            f"{shard.name}: sample {sample.key} has label {sample.label}: run `stylize verify`."
                        )
                    place = Path(shard.split, folders[sample.label], f"{sample.key}.{manifest.spec['codec']}")
                    for kind, payload in zip(_kinds(len(sample.styled)), sample.images, strict=True):
                        _write(out / kind / place, payload)
                    report(1)
    return manifest


def _kinds(copies: int) -> list[str]:
    return [ORIGINAL, *([STYLIZED] if copies == 1 else [f"{STYLIZED}{number}" for number in range(copies)])]


def class_folder(name: str) -> str:
    """Return a class's folder: its name, with letters as %XX where it could lead elsewhere, hide or not print.

    Raises `InputError` for a name too long for a file system.
    """
    plain = name.isprintable() and not set(name) & set('%/\\:*?"<>|') and name == name.strip(" .")
    folder = name if plain else quote(name, safe=" ", errors="surrogatepass")
    if folder[0] in ". ":
        folder = f"%{ord(folder[0]):02X}{folder[1:]}"
    if folder[-1] in ". ":
        folder = f"{folder[:-1]}%{ord(folder[-1]):02X}"
    if len(folder.encode()) > MAX_NAME:
        raise InputError(f"The class {name[:40]!r}… has a name of over {MAX_NAME} bytes: no folder can have it.")
    return folder


def _claim(out: Path, record: bytes) -> None:
    """Note in a folder which shards it is of, and clear half-written files; refuse one with anything else in it."""
    try:
        for leftover in out.rglob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        claimed = (out / RECORD).read_bytes() if (out / RECORD).exists() else None
        taken = claimed != record if claimed else out.exists() and any(out.iterdir())
    except OSError as error:
        raise InputError(f"{out} cannot be read ({error.strerror}): give another --out.") from None
    if taken:
        raise InputError(f"{out} holds something else than these shards unpacked: give another --out, or remove it.")
    write_atomically(out / RECORD, record)


def _write(path: Path, payload: bytes) -> None:
    try:
        there = path.read_bytes() == payload
    except FileNotFoundError:
        there = False
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give another --out.") from None
    if not there:
        write_atomically(path, payload, flush=False)
