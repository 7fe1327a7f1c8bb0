"""Shard folders behind URLs: read, cached and uploaded, each file checked before it is used."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer

from stylize.console import InputError, console, print_notice, silent
from stylize.files import file_sha256, remove_leftovers, temporary_path, wait_for_turn, write_atomically
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, ORIGIN_NAME, Manifest, ShardEntry, read_manifest

TRIES = 3


def is_url(name: str) -> bool:
    """Return whether a name is a URL and not a path."""
    return "://" in name


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turn whatever an object store or web server, and the libraries that talk to it, raise into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{url} is not there: check the bucket, the folder and the endpoint.") from None
    except PermissionError as error:
        raise InputError(f"{url} is refused ({error_reason(error)}): check the credentials, say AWS_PROFILE.") from None
    except Exception as error:  # botocore's and aiohttp's have no base in common
        raise InputError(
            f"{url} cannot be used ({error_reason(error)}): check the network, the endpoint and the credentials."
        ) from None


def error_reason(error: Exception) -> str:
    """Return an error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}".removesuffix(": ")


class RemoteFolder:
    """A folder behind a URL that fsspec can open: `s3://bucket/folder`, `https://host/folder` and others."""

    def __init__(self, url: str) -> None:
        """Raise `InputError` where the URL's kind is not known, or needs a package that is not installed."""
        import fsspec  # a tenth of a second, which --help need not wait for

        self.url = url.rstrip("/")
        try:
            # Listings are not kept: what another process uploads meanwhile counts.
            self.files, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError:
            extra = "hub" if url.startswith("hf://") else "s3"
            raise InputError(f"{url} needs more packages: pip install 'stylized-pairing[{extra}]'.") from None
        except ValueError as error:
            known = "s3://bucket/folder, hf://datasets/OWNER/NAME or https://…"
            raise InputError(f"{url} cannot be opened ({error}): give {known}.") from None

    def path(self, name: str) -> str:
        """Return what fsspec calls a file of the folder."""
        return f"{self.root}/{name}"

    def fetch(self, name: str, target: Path, sha256: str | None = None) -> None:
        """Download a file, check it and rename it; what fails is tried again.

        Raises `InputError` where it cannot be read, or is not the one with this SHA-256.
        """
        temporary = temporary_path(target)
        try:
            for left in reversed(range(TRIES)):
                try:
                    with store_errors(f"{self.url}/{name}"):
                        self.files.get_file(self.path(name), str(temporary))
                    if sha256 and file_sha256(temporary) != sha256:
                        raise InputError(f"{self.url}/{name} differs from its manifest: upload it again.")
                    break
                except InputError as error:
                    if not left:
                        raise
                    print_notice(f"{error} Trying again.")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def fetch_manifest(self, folder: Path) -> Manifest:
        """Download the manifest into a folder and return it; raise `InputError` where there is none to be trusted."""
        self.fetch(MANIFEST_NAME, folder / MANIFEST_NAME)
        manifest = read_manifest(folder)
        if manifest.failures_sha256:
            self.fetch(FAILURES_NAME, folder / FAILURES_NAME, manifest.failures_sha256)
        return manifest

    def info(self, name: str) -> dict[str, Any] | None:
        """Return what the store says about a file (size, ETag …), None where there is none."""
        with store_errors(f"{self.url}/{name}"):
            try:
                known: dict[str, Any] = self.files.info(self.path(name), refresh=True)
                return known
            except FileNotFoundError:
                return None

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, which is read for it."""
        with self.files.open(self.path(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ShardFiles:
    """The files of shards: those of a folder or, behind a URL, fetched one after the other into a temporary folder."""

    folder: Path
    remote: RemoteFolder | None = None

    @contextmanager
    def lend(self, shard: ShardEntry) -> Iterator[Path]:
        """Lend a shard's file, as it is; raise `InputError` where a URL does not give it."""
        path = self.folder / shard.name
        if self.remote is None:
            yield path
            return
        try:
            self.remote.fetch(shard.name, path)
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def shard_files(shards: str | Path) -> Iterator[ShardFiles]:
    """Open a folder of shards or its URL for reading shard by shard; of a URL the manifest comes first.

    Raises `InputError` where a URL has no manifest to be trusted.
    """
    if not is_url(str(shards)):
        yield ShardFiles(Path(shards))
        return
    remote = RemoteFolder(str(shards))
    with tempfile.TemporaryDirectory() as folder:
        remote.fetch_manifest(Path(folder))
        yield ShardFiles(Path(folder), remote)


ShardReport = Callable[[ShardEntry], None]
Needed = Callable[[Manifest], Container[str]]  # names of shards that must be here, whatever the size of the cache


def without_pairs(manifest: Manifest) -> set[str]:
    """Return the names of shards with originals only, which evaluation reads in any order."""
    return {shard.name for shard in manifest.shards if shard.split != "train"}


DEFAULT_CACHE = Path("~/.cache/stylized-pairing")
DEFAULT_GB = 200.0
_LOCK = "lock"
Cache = Annotated[Path, typer.Option(help="Where shards from a URL are kept.")]
CacheGigabytes = Annotated[
    float, typer.Option(help="Largest size of that folder; the least recently used shards go first.")
]


def print_downloaded(shard: ShardEntry) -> None:
    """Say that a shard was downloaded and is whole."""
    console.print(f"{shard.name}: downloaded, {shard.bytes / 1e6:.1f} MB, SHA-256 as recorded")


@contextmanager
def local_shards(
    shards: str,
    cache: Path = DEFAULT_CACHE,
    gigabytes: float = DEFAULT_GB,
    report: ShardReport = silent,
    needed: Needed = without_pairs,
) -> Iterator[Path]:
    """Yield a folder of shards: the path itself, or for a URL a copy in the cache that stays while it is used.

    Each shard is checked against the manifest's SHA-256 when it comes. Processes of one machine download it once.
    Copies that were not used for longest make room; `report` is told of every downloaded shard.  Shards that the cache
    cannot hold stay behind the URL, which the folder's file `origin` names; never those that are `needed`.

    Raises:
        InputError: the URL cannot be read, a shard differs from its manifest, or the cache or disk is too small.
    """
    if not is_url(shards):
        yield Path(shards)
        return
    remote, root = RemoteFolder(shards), cache.expanduser()
    with _cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        folder = _copy_of(remote, root)
        lock = open(folder / _LOCK)  # noqa: SIM115 - closed below, after what the caller does
    with lock:
        with _cache_errors(root), _turn_to_download(folder):
            alone = _try_lock(lock.fileno())
            if not alone:
                fcntl.flock(lock, fcntl.LOCK_SH)
            _complete(remote, folder, gigabytes, report, alone, needed)
            fcntl.flock(lock, fcntl.LOCK_SH)  # as long as the copy is used; others may use it too
        yield folder


@contextmanager
def _turn_to_download(folder: Path) -> Iterator[None]:
    """Let one process at a time complete a copy, and say so where another one is at it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _try_lock(descriptor):
            console.print(f"Waiting for another process, which downloads the same shards to {folder}.")
            wait_for_turn(descriptor, folder, f"Another process, which downloads the same shards to {folder},")
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock a file for this process alone and return True, unless others have locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"The cache {root} cannot be written ({error.strerror}): give another --cache.") from None


def _copy_of(remote: RemoteFolder, root: Path) -> Path:
    """Return the cache's folder for these shards, named by the manifest's SHA-256, with the manifest in it."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as fresh:
        remote.fetch_manifest(Path(fresh))
        folder = root / file_sha256(Path(fresh) / MANIFEST_NAME)[:16]
        folder.mkdir(exist_ok=True)
        (folder / _LOCK).touch()  # its time tells when the copy was used last
        for path in Path(fresh).iterdir():
            path.replace(folder / path.name)
    return folder


def _complete(
    remote: RemoteFolder, folder: Path, gigabytes: float, report: ShardReport, alone: bool, needed: Needed
) -> None:
    """Download the shards that the folder lacks, as far as the cache holds them; others are removed if not in use."""
    remove_leftovers(folder)
    manifest = read_manifest(folder)
    kept, behind = _fitting(manifest, gigabytes, needed)
    there = {path.name: path.stat().st_size for path in folder.glob("*.tar")}  # whose SHA-256 was checked then
    missing = [shard for shard in kept if there.get(shard.name) != shard.bytes]
    (folder / ORIGIN_NAME).unlink(missing_ok=True)
    if behind:
        write_atomically(folder / ORIGIN_NAME, remote.url.encode())
    for shard in behind if alone else ():
        (folder / shard.name).unlink(missing_ok=True)  # of a time when the cache was larger
    _make_room(kept, missing, folder, gigabytes)
    for shard in missing:
        remote.fetch(shard.name, folder / shard.name, shard.sha256)
        report(shard)
    if missing and not behind:
        from stylize.shards.index import write_indices  # which imports NumPy, as --help need not

        write_indices(folder, manifest)


def _fitting(manifest: Manifest, gigabytes: float, needs: Needed) -> tuple[list[ShardEntry], list[ShardEntry]]:
    """Return the shards that the cache holds, those that are needed before others, and those that it does not."""
    if sum(shard.bytes for shard in manifest.shards) <= gigabytes * 1e9:
        return list(manifest.shards), []  # `needs` may raise that shards cannot be streamed
    needed = needs(manifest)
    shards = sorted(manifest.shards, key=lambda shard: shard.name not in needed)
    totals = list(accumulate(shard.bytes for shard in shards))
    count = sum(total <= gigabytes * 1e9 for total in totals)
    if any(shard.name in needed for shard in shards[count:]):
        size = max(total for shard, total in zip(shards, totals, strict=True) if shard.name in needed)
        raise InputError(f"The images to evaluate on take {size / 1e9:.2g} GB, more than the cache: raise --cache-gb.")
    kept = {shard.name for shard in shards[:count]}
    return [shard for shard in manifest.shards if shard.name in kept], shards[count:]


def _make_room(kept: list[ShardEntry], missing: list[ShardEntry], folder: Path, gigabytes: float) -> None:
    """Remove copies that are not in use, least recently used first, until this one fits."""
    wanted, limit = sum(shard.bytes for shard in kept), gigabytes * 1e9
    others = [lock for lock in folder.parent.glob(f"*/{_LOCK}") if lock.parent != folder]
    others.sort(key=lambda lock: lock.stat().st_mtime_ns)
    total, needed = wanted + sum(map(_size, others)), sum(shard.bytes for shard in missing)
    for other in others:
        if total <= limit and shutil.disk_usage(folder).free >= needed:
            break
        with open(other) as file:
            if _try_lock(file.fileno()):  # no process is using it
                total -= _size(other)
                shutil.rmtree(other.parent, ignore_errors=True)
    if total > limit:
        raise InputError(f"The cache {folder.parent} is full of shards in use: wait for them, or raise --cache-gb.")
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(f"The cache {folder.parent} needs {needed / 1e9:.1f} GB and has {free / 1e9:.1f}: make room.")


def _size(lock: Path) -> int:
    return sum(path.stat().st_size for path in lock.parent.glob("*.tar"))
