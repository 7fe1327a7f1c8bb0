"""`stylize upload`: a finished folder to an object store, so that nobody ever sees half of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from stylize.errors import InputError
from stylize.shards.format import file_sha256
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, read_manifest
from stylize.shards.remote import TRIES, RemoteFolder, is_url, store_errors
from stylize.shards.side_files import side_names

UPLOADS_AT_ONCE = 4


def upload_shards(directory: Path, url: str, report: Callable[[int], None] = lambda size: None) -> Manifest:
    """Upload a finished folder to `s3://bucket/prefix` and return its manifest, which goes last.

    Indices, checksums and data card go too, as they are.  Each other file is checked against the manifest.  All are
    created in one request, only if there is none of their name; what is there already is compared instead, so the
    same call goes on after an interruption.  `report` receives bytes.

    Raises:
        InputError: the folder is damaged, the store cannot be written, or holds other files under these names.
    """
    if not (is_url(url) and url.startswith("s3://")):
        raise InputError(f"{url} is not s3://bucket/folder: copy the folder with another tool, {MANIFEST_NAME} last.")
    manifest = read_manifest(directory)
    target = RemoteFolder(url)
    own = file_sha256(directory / MANIFEST_NAME)
    _refuse_other(target, MANIFEST_NAME, own)  # before gigabytes of shards are sent
    hashes = {shard.name: shard.sha256 for shard in manifest.shards}
    if manifest.failures_sha256:
        hashes[FAILURES_NAME] = manifest.failures_sha256
    for name in side_names(manifest):
        if (directory / name).is_file():
            hashes[name] = file_sha256(directory / name)
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
        uploads = [threads.submit(_upload, directory / name, target, sha256) for name, sha256 in hashes.items()]
        try:
            for upload in uploads:
                report(upload.result())
        finally:
            threads.shutdown(cancel_futures=True)
    _upload(directory / MANIFEST_NAME, target, own)
    return manifest


def _upload(path: Path, target: RemoteFolder, sha256: str) -> int:
    """Upload a file unless it is there, and return its size."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise InputError(f"{path} is missing or differs from its manifest: make it again before you upload it.")
    size = path.stat().st_size
    # `create` sends If-None-Match: *; the store keeps all of the file or none of it.
    put = partial(target.files.put_file, str(path), target.path(path.name), mode="create", Metadata={"sha256": sha256})
    for left in reversed(range(TRIES)):
        if _refuse_other(target, path.name, sha256):
            return size
        try:
            with store_errors(f"{target.url}/{path.name}"):
                put()
            return size
        except InputError:  # somebody else was first, or is at it (409), or the answer was lost: look again
            if not left and not _refuse_other(target, path.name, sha256):
                raise
    return size


def _refuse_other(target: RemoteFolder, name: str, sha256: str) -> bool:
    """Return whether the store has a file already; raise `InputError` where it is another one."""
    if target.info(name) is None:
        return False
    with store_errors(f"{target.url}/{name}"):
        recorded = target.files.metadata(target.path(name), refresh=True).get("sha256")
    if recorded != sha256:
        raise InputError(f"{target.url}/{name} is there and differs: give another folder, or remove it first.")
    return True
