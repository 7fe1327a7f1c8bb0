"""Shards behind a URL, kept on this machine: downloaded once, checked, and removed when room is needed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer

from stylize.console import InputError, console
from stylize.files import file_sha256, remove_leftovers, write_atomically
from stylize.shards.index import ORIGIN_NAME, checksum_path, index_name, write_indices
from stylize.shards.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from stylize.shards.remote import RemoteFolder, is_url

DEFAULT_CACHE = Path("~/.cache/stylized-pairing")
DEFAULT_GB = 200.0
_LOCK = "lock"
Cache = Annotated[Path, typer.Option(help="Where shards from a URL are kept.")]
CacheGigabytes = Annotated[float, typer.Option(help="Size of that; what was not used for longest goes.")]


def opened_shards(shards: str, cache: Path, gigabytes: float) -> AbstractContextManager[Path]:
    """Lend a folder of shards as `local_shards` does, and say what is downloaded."""
    return local_shards(shards, cache, gigabytes, _say_downloaded)


def _say_downloaded(shard: ShardEntry) -> None:
    console.print(f"{shard.name}: downloaded, {shard.bytes / 1e6:.1f} MB, SHA-256 as recorded")


@contextmanager
def local_shards(
    shards: str,
    cache: Path = DEFAULT_CACHE,
    gigabytes: float = DEFAULT_GB,
    report: Callable[[ShardEntry], None] = lambda shard: None,
) -> Iterator[Path]:
    """Yield a folder of shards: the path itself, or for a URL a copy in the cache that stays while it is used.

    Each shard is checked against the manifest's SHA-256 when it comes. Processes of one machine download it once.
    Copies that were not used for longest make room; `report` is told of every downloaded shard.  Shards that the cache
    cannot hold stay behind the URL: `PairedShards` reads their samples from there.

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
            _complete(remote, folder, gigabytes, report, alone)
            fcntl.flock(lock, fcntl.LOCK_SH)  # as long as the copy is used; others may use it too
        yield folder


@contextmanager
def _turn_to_download(folder: Path) -> Iterator[None]:
    """Let one process at a time complete a copy, and say so where another one is at it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _try_lock(descriptor):
            console.print(f"Waiting for another process, which downloads the same shards to {folder}.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
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
    remote: RemoteFolder, folder: Path, gigabytes: float, report: Callable[[ShardEntry], None], alone: bool
) -> None:
    """Download the shards that the folder lacks, as far as the cache holds them; others are removed if not in use."""
    remove_leftovers(folder)
    manifest = read_manifest(folder)
    kept = _fitting(manifest, gigabytes * 1e9)
    missing = [shard for shard in kept if not _is_there(folder / shard.name, shard)]
    behind = manifest.shards[len(kept) :]
    _prepare_streaming(remote, folder, behind)
    for shard in behind if alone else ():
        (folder / shard.name).unlink(missing_ok=True)  # of a time when the cache was larger
    _make_room(kept, missing, folder, gigabytes)
    for shard in missing:
        remote.fetch(shard.name, folder / shard.name, shard.sha256)
        report(shard)
    if missing and not behind:
        write_indices(folder, manifest)


def _fitting(manifest: Manifest, limit: float) -> list[ShardEntry]:
    """Return the first shards of a manifest, as many as have no more bytes than the limit."""
    totals = accumulate(shard.bytes for shard in manifest.shards)
    return [shard for shard, total in zip(manifest.shards, totals, strict=True) if total <= limit]


def _prepare_streaming(remote: RemoteFolder, folder: Path, behind: Sequence[ShardEntry]) -> None:
    """Fetch what reading single samples of the shards that stay behind takes: tables of all, checksums of each."""
    (folder / ORIGIN_NAME).unlink(missing_ok=True)
    if not behind:
        return
    paths = [*(folder / index_name(split) for split in {shard.split for shard in behind})]
    paths += [checksum_path(folder / shard.name) for shard in behind]
    try:
        for path in paths:
            if not path.exists():
                remote.fetch(path.name, path)
    except InputError as error:
        raise InputError(
            f"The shards are larger than the cache and cannot be read in parts ({str(error).rstrip('.')}): raise "
            "--cache-gb, or run `stylize index` and `stylize upload` on the folder that they came from."
        ) from None
    write_atomically(folder / ORIGIN_NAME, remote.url.encode())


def _is_there(path: Path, shard: ShardEntry) -> bool:
    """Return whether a shard has been downloaded; its SHA-256 was checked then and is checked again by readers."""
    return path.is_file() and path.stat().st_size == shard.bytes


def _make_room(kept: list[ShardEntry], missing: list[ShardEntry], folder: Path, gigabytes: float) -> None:
    """Remove copies that are not in use, least recently used first, until this one fits."""
    wanted, limit = sum(shard.bytes for shard in kept), gigabytes * 1e9
    others = sorted((lock for lock in folder.parent.glob(f"*/{_LOCK}") if lock.parent != folder), key=_last_use)
    total, needed = wanted + sum(map(_size, others)), sum(shard.bytes for shard in missing)
    for other in others:
        if total <= limit and shutil.disk_usage(folder).free >= needed:
            break
        size = _size(other)
        total -= size if _remove_unused(other) else 0
    if total > limit:
        raise InputError(f"The cache {folder.parent} is full of shards in use: wait for them, or raise --cache-gb.")
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(f"The cache {folder.parent} needs {needed / 1e9:.1f} GB and has {free / 1e9:.1f}: make room.")


def _last_use(lock: Path) -> int:
    return lock.stat().st_mtime_ns


def _size(lock: Path) -> int:
    return sum(path.stat().st_size for path in lock.parent.glob("*.tar"))


def _remove_unused(lock: Path) -> bool:
    """Remove a copy and return True, unless a process is using it."""
    with open(lock) as file:
        unused = _try_lock(file.fileno())
        if unused:
            shutil.rmtree(lock.parent, ignore_errors=True)
        return unused
