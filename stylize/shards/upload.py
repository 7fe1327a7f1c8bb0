"""`stylize upload`: a finished folder of shards sent to an object store, the manifest last."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from stylize.console import InputError
from stylize.files import file_sha256
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, read_manifest
from stylize.shards.remote import TRIES, RemoteFolder, is_url, store_errors
from stylize.shards.side_files import side_names

UPLOADS_AT_ONCE = 4


def upload_shards(directory: Path, url: str, report: Callable[[int], None] = lambda size: None) -> Manifest:
    """Upload a finished folder to `s3://bucket/prefix` and return its manifest, which goes last.

    Indices, checksums and data card go too, as they are.  Each other file is checked against the manifest.  All are
    created in one request, only if there is none of their name; what is there already is compared instead, so the
    same call goes on after an interruption, and mends what the store has damaged.  `report` receives bytes.

    Raises:
        InputError: the folder is damaged, the store cannot be written, or holds other files under these names.
    """
    if not (is_url(url) and url.startswith("s3://")):
        raise InputError(f"{url} is not s3://bucket/folder: copy the folder with another tool, {MANIFEST_NAME} last.")
    manifest = read_manifest(directory)
    target = RemoteFolder(url)
    own = file_sha256(directory / MANIFEST_NAME)
    _is_stored(directory / MANIFEST_NAME, target, own)  # another one is refused before gigabytes of shards are sent
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
    """Upload a file unless it is there, and return its size; one of ours that is damaged in the store is replaced."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise InputError(f"{path} is missing or differs from its manifest: make it again before you upload it.")
    put = partial(target.files.put_file, str(path), target.path(path.name), Metadata={"sha256": sha256})
    failure = None
    for _ in range(TRIES):
        whole = _is_stored(path, target, sha256)
        if whole:
            break
        try:
            with store_errors(target.url):  # not the file's: it is the bucket that may be missing
                # `create` sends If-None-Match: *; the store keeps all of the file or none of it.
                put(mode="create" if whole is None else "overwrite")
            break
        except InputError as error:  # another process was first or is at it (409), or the answer was lost: look again
            failure = error
    else:
        if failure and not _is_stored(path, target, sha256):
            raise failure
    return path.stat().st_size


def _is_stored(path: Path, target: RemoteFolder, sha256: str) -> bool | None:
    """Return whether the store has a whole copy of a file; None where it has nothing of this name.

    Sizes and MD5 (S3's ETag) are compared; where these leave doubt, the copy is read. Raises `InputError` where the
    name is that of another file: neither is the SHA-256 in its metadata this one, nor that of its bytes.
    """
    known, url = target.info(path.name), f"{target.url}/{path.name}"
    if known is None:
        return None
    with store_errors(url):
        recorded = target.files.metadata(target.path(path.name), refresh=True).get("sha256")
        same_size = bool(known["size"] == path.stat().st_size)
        if recorded == sha256 and (not same_size or str(known.get("ETag")).strip('"') == _md5(path)):
            return same_size
        whole = same_size and recorded in (None, sha256) and target.sha256(path.name) == sha256
    if not whole and recorded != sha256:
        raise InputError(f"{url} is there and differs: give another folder, or remove it first.")
    return whole


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
