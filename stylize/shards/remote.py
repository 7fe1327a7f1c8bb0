"""A folder of shards behind a URL: its files read, whole or in parts, by whatever protocol fsspec knows."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from stylize.console import InputError, print_notice
from stylize.files import file_sha256, temporary_path
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, ShardEntry, read_manifest

TRIES = 3
Result = TypeVar("Result")


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
        raise InputError(f"{url} is refused ({_reason(error)}): check the credentials, say AWS_PROFILE.") from None
    except Exception as error:  # botocore's and aiohttp's have no base in common
        raise InputError(
            f"{url} cannot be used ({_reason(error)}): check the network, the endpoint and the credentials."
        ) from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}".removesuffix(": ")


class RemoteFolder:
    """A folder behind a URL that fsspec can open: `s3://bucket/folder`, `https://host/folder` and others."""

    def __init__(self, url: str) -> None:
        """Raise `InputError` where the URL's kind is not known, or needs a package that is not installed."""
        self.url = url.rstrip("/")
        try:
            # Listings are not kept: what another process uploads meanwhile counts.
            self.files, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError:
            raise InputError(f"{url} needs more packages: pip install 'stylized-pairing[s3]'.") from None
        except ValueError as error:
            raise InputError(f"{url} cannot be opened ({error}): give s3://bucket/folder or https://….") from None

    def path(self, name: str) -> str:
        """Return what fsspec calls a file of the folder."""
        return f"{self.root}/{name}"

    def fetch(self, name: str, target: Path, sha256: str | None = None) -> None:
        """Download a file, check it and rename it; what fails is tried again.

        Raises `InputError` where it cannot be read, or is not the one with this SHA-256.
        """
        temporary = temporary_path(target)
        try:
            _tried(lambda: self._fetch_once(name, temporary, sha256))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _fetch_once(self, name: str, temporary: Path, sha256: str | None) -> None:
        with store_errors(f"{self.url}/{name}"):
            self.files.get_file(self.path(name), str(temporary))
        if sha256 and file_sha256(temporary) != sha256:
            raise InputError(f"{self.url}/{name} differs from its manifest: upload it again.")

    def read_parts(self, names: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """Return bytes `starts` to `ends` of files, asked for all at once; what fails is tried again.

        Raises `InputError` where they cannot be read, or the store sends something else.
        """
        return _tried(lambda: self._read_parts_once(names, starts, ends))

    def _read_parts_once(self, names: Sequence[str], starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        if not names:
            return []
        with store_errors(self.url):
            paths = [self.path(name) for name in names]
            parts: list[bytes] = self.files.cat_ranges(paths, list(starts), list(ends), on_error="raise")
        if any(len(part) != end - start for part, start, end in zip(parts, starts, ends, strict=True)):
            raise InputError(f"{self.url} does not send parts of files as asked: raise --cache-gb, or copy the folder.")
        return parts

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


def _tried(call: Callable[[], Result]) -> Result:
    for left in reversed(range(TRIES)):
        try:
            return call()
        except InputError as error:
            if not left:
                raise
            print_notice(f"{error} Trying again.")
    raise AssertionError


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
