"""`stylize upload`: finished folders to S3 or to the Hugging Face Hub, the manifest last, nothing overwritten."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from stylize.console import InputError, Report, counted, silent
from stylize.files import file_sha256
from stylize.shards.card import CROISSANT_NAME, locate_shards, read_croissant
from stylize.shards.index import side_names
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, read_manifest
from stylize.shards.remote import TRIES, RemoteFolder, error_reason, store_errors

UPLOADS_AT_ONCE = 4
SHARDS_A_COMMIT = 20  # the Hub admits some hundred commits an hour


def upload_shards(directory: Path, url: str, report: Report = silent) -> Manifest:
    """Upload a finished folder to `s3://bucket/prefix` or `hf://datasets/OWNER/NAME` and return its manifest.

    Indices, checksums and data card go too. The manifest goes last, on the Hub in one commit with these. Each other
    file is checked against the manifest first. What is there already is compared and never overwritten, so the same
    call goes on after an interruption; on S3 it mends what the store has damaged.  `report` receives bytes.

    Raises:
        InputError: the folder is damaged, the store cannot be written, or holds other files.
    """
    manifest = read_manifest(directory)
    if url.startswith("s3://"):
        _upload_to_s3(directory, manifest, url, report)
    elif _HUB_URL.fullmatch(url):
        _upload_to_hub(directory, manifest, url, report)
    else:
        known = "s3://bucket/folder or hf://datasets/OWNER/NAME"
        raise InputError(f"{url} is not {known}: copy the folder with another tool, {MANIFEST_NAME} last.")
    return manifest


def _side_hashes(directory: Path, manifest: Manifest) -> dict[str, str]:
    """Return the SHA-256 of the files beside the shards but for the manifest, those of failures as it records them."""
    present = [name for name in sorted(side_names(manifest)) if (directory / name).is_file()]
    hashes = {name: file_sha256(directory / name) for name in present}
    return {**hashes, **({FAILURES_NAME: manifest.failures_sha256} if manifest.failures_sha256 else {})}


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file() or file_sha256(path) != sha256:
        raise InputError(f"{path} is missing or differs from its manifest: make it again before you upload it.")


def _upload_to_s3(directory: Path, manifest: Manifest, url: str, report: Report) -> None:
    target = RemoteFolder(url)
    own = file_sha256(directory / MANIFEST_NAME)
    _is_stored(directory / MANIFEST_NAME, target, own)  # another one is refused before gigabytes of shards are sent
    hashes = {**{shard.name: shard.sha256 for shard in manifest.shards}, **_side_hashes(directory, manifest)}
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
        uploads = [threads.submit(_upload, directory / name, target, sha256) for name, sha256 in hashes.items()]
        try:
            for upload in uploads:
                report(upload.result())
        finally:
            threads.shutdown(cancel_futures=True)
    _upload(directory / MANIFEST_NAME, target, own)


def _upload(path: Path, target: RemoteFolder, sha256: str) -> int:
    """Upload a file unless it is there, and return its size; one of ours that is damaged in the store is replaced."""
    _check_file(path, sha256)
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
        with open(path, "rb") as file:
            md5 = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        if recorded == sha256 and (not same_size or str(known.get("ETag")).strip('"') == md5):
            return same_size
        whole = same_size and recorded in (None, sha256) and target.sha256(path.name) == sha256
    if not whole and recorded != sha256:
        raise InputError(f"{url} is there and differs: give another folder, or remove it first.")
    return whole


_HUB_URL = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)/?")

_ADVICE = {
    401: "the token is wrong or missing: run `hf auth login`, or set HF_TOKEN",
    403: "the token has no write access there: give another, or a name of your own",
    409: "others have changed it meanwhile: run the same command again",
    412: "others have changed it meanwhile: run the same command again",
    429: "the Hub takes no more for now: run the same command again in an hour",
}


@contextmanager
def _hub_errors(url: str) -> Iterator[None]:
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        yield
    except Exception as error:  # those of the network have no base in common
        status = 401 if isinstance(error, LocalTokenNotFoundError) else 0
        status = int(getattr(getattr(error, "response", None), "status_code", status))
        advice = _ADVICE.get(status, "check the network, and run the same command again to go on")
        raise InputError(f"{url} cannot be used ({error_reason(error)}): {advice}.") from None


def _upload_to_hub(directory: Path, manifest: Manifest, url: str, report: Report) -> None:
    """Commit shards in groups, then all other files at once; each commit follows the state that was looked at."""
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError:
        raise InputError(f"{url} needs more packages: pip install 'stylized-pairing[hub]'.") from None
    api, repository = HfApi(), url.removeprefix("hf://datasets/").rstrip("/")
    hashes = {shard.name: shard.sha256 for shard in manifest.shards}
    groups = [[*hashes][start : start + SHARDS_A_COMMIT] for start in range(0, len(hashes), SHARDS_A_COMMIT)]
    last = {**_side_hashes(directory, manifest), MANIFEST_NAME: file_sha256(directory / MANIFEST_NAME)}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: (directory / name, sha256) for name, sha256 in {**hashes, **last}.items()}
        if CROISSANT_NAME in files:
            files[CROISSANT_NAME] = _located(directory, f"{api.endpoint}/datasets/{repository}", Path(folder))
        with _hub_errors(url):
            api.create_repo(repository, repo_type="dataset", exist_ok=True)
            head = api.repo_info(repository, repo_type="dataset").sha
            listed = [*api.list_repo_tree(repository, repo_type="dataset", recursive=True, revision=head)]
        there = _ours(url, listed, files)
        for group in (*groups, last):
            for name in group:
                _check_file(*files[name])
            added = [CommitOperationAdd(name, str(files[name][0])) for name in group if name not in there]
            if added:
                with _hub_errors(url):
                    message = f"Add {counted(len(added), 'file')}"
                    head = api.create_commit(
                        repository, added, commit_message=message, repo_type="dataset", parent_commit=head
                    ).oid
            report(sum(files[name][0].stat().st_size for name in group))


def _ours(url: str, listed: Iterable[Any], files: Mapping[str, tuple[Path, str]]) -> set[str]:
    """Return the names of our files that a repository has; raise `InputError` where it has others, or one differs."""
    there = {entry.path: entry for entry in listed if hasattr(entry, "blob_id") and entry.path != ".gitattributes"}
    for name, entry in there.items():
        if name not in files:
            raise InputError(f"{url} is another data set's, with {name} in it: give another name.")
        path, sha256 = files[name]
        if entry.lfs:
            same = entry.lfs.sha256 == sha256
        else:  # as Git names it
            blob = b"blob %d\0" % path.stat().st_size + path.read_bytes() if path.is_file() else b""
            same = entry.blob_id == hashlib.sha1(blob, usedforsecurity=False).hexdigest()
        if not same:
            raise InputError(f"{url}/{name} is there and differs: give another name, or remove it first.")
    return set(there)


def _located(directory: Path, page: str, folder: Path) -> tuple[Path, str]:
    """Write `croissant.json` as it must be on the Hub, with URLs of the shards, and return it with its SHA-256."""
    path, document = folder / CROISSANT_NAME, read_croissant(directory)
    if not document:  # somebody's own
        return directory / CROISSANT_NAME, file_sha256(directory / CROISSANT_NAME)
    located = locate_shards(document, page, f"{page}/resolve/main")
    path.write_text(json.dumps(located, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path, file_sha256(path)
