"""`stylize unpack`: shards turned back into class folders of pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from stylize.console import InputError
from stylize.files import TEMPORARY_SUFFIX, file_sha256, write_atomically
from stylize.shards.index import differs
from stylize.shards.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from stylize.shards.remote import shard_files
from stylize.shards.shard import Sample, read_shard

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
                for sample in _checked_samples(path, shard):
                    _write_pictures(sample, shard, out, folders, manifest.spec["codec"])
                    report(1)
    return manifest


def _write_pictures(sample: Sample, shard: ShardEntry, out: Path, folders: list[str], codec: str) -> None:
    if sample.label >= len(folders):
        raise InputError(f"{shard.name}: sample {sample.key} has label {sample.label}: run `stylize verify`.")
    place = Path(shard.split, folders[sample.label], f"{sample.key}.{codec}")
    for kind, payload in _pictures(sample):
        _write(out / kind / place, payload)


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


def _checked_samples(path: Path, shard: ShardEntry) -> Iterator[Sample]:
    if not path.is_file() or file_sha256(path) != shard.sha256:
        raise differs(path)
    return read_shard(path)


def _pictures(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield ORIGINAL, sample.content
    for number, copy in enumerate(sample.styled):
        yield STYLIZED if len(sample.styled) == 1 else f"{STYLIZED}{number}", copy


def _write(path: Path, payload: bytes) -> None:
    try:
        there = path.read_bytes() == payload
    except FileNotFoundError:
        there = False
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give another --out.") from None
    if not there:
        write_atomically(path, payload, flush=False)
