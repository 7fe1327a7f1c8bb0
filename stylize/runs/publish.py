"""The published folder of a job: whether it is there already and whole, and how finished shards get into it."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stylize.atomic import remove_leftovers
from stylize.errors import InputError
from stylize.runs.spec import Spec
from stylize.runs.staging import LOCK_NAME
from stylize.shards.card import CARD_NAME, render_card
from stylize.shards.format import file_sha256
from stylize.shards.manifest import (
    FAILURES_NAME,
    MANIFEST_NAME,
    SHARD_NAME,
    Manifest,
    ShardEntry,
    read_manifest,
    write_manifest,
)
from stylize.shards.side_files import SIDE_NAME, write_side_files
from stylize.wording import counted

MAX_HASHED_BYTES = 1_000_000_000  # a second or two of hashing, where the disk is as fast


def plain_spec(spec: Spec) -> dict[str, Any]:
    """Return the specification as its JSON reads back."""
    document: dict[str, Any] = json.loads(json.dumps(spec.document()))
    return document


def find_finished(out: Path, spec: Spec, *, other_images: bool = False) -> Manifest | None:
    """Return the manifest of a folder that holds the specification's shards, None where there is nothing yet.

    With `other_images` the source's fingerprint may differ. Raises `InputError` as `find_folder`.
    """
    return find_folder(out, plain_spec(spec), other_images=other_images)


def find_folder(out: Path, wanted: Mapping[str, Any], *, other_images: bool = False) -> Manifest | None:
    """Do as `find_finished` for a specification as its JSON reads back.

    Raises `InputError` where the folder holds something else, cannot be read, or could not be renamed onto.
    """
    try:
        if out.is_mount():  # finished shards are moved into place by renaming their folder
            raise InputError(f"{out} is a mount point: give a folder in it.")
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
    except OSError as error:
        raise InputError(f"{out} cannot be read ({error.strerror}): give another --out.") from None
    if not (out / MANIFEST_NAME).is_file():
        raise InputError(f"{out} exists and is not a shard folder: give another --out, or remove it.")
    manifest = _read_own_manifest(out)
    if {**manifest.spec, "source_fingerprint": None} != {**wanted, "source_fingerprint": None}:
        raise InputError(f"{out} holds shards made with other options: give another --out, or remove it.")
    if manifest.spec != wanted and not other_images:
        raise InputError(f"{out} was made before some images changed: give --retry-failed, or another --out.")
    return manifest


def _read_own_manifest(out: Path) -> Manifest:
    """Read the manifest; where it is damaged nothing tells what the shards are, and a run cannot go on from them."""
    try:
        return read_manifest(out)
    except InputError as error:
        reason = str(error).rpartition(": ")[0] or str(error).rstrip(".")  # without its own advice
        raise InputError(
            f"{out} cannot be taken as finished, {reason}: fetch it again, or remove {out} and run again."
        ) from None


def needs_retry(finished: Manifest, spec: Spec, retry_failed: bool) -> bool:
    """Return whether a finished folder that lacks images, or has others than the source now, is to be mended."""
    return retry_failed and (finished.failures > 0 or finished.spec != plain_spec(spec))


def compares_hashes(finished: Manifest) -> bool:
    """Return whether a folder is small enough that a run which finds it finished reads it all."""
    return sum(shard.bytes for shard in finished.shards) <= MAX_HASHED_BYTES


def damaged_files(finished: Manifest, out: Path) -> list[str]:
    """Return the names of a finished folder's files that are missing or not as they were written.

    Sizes always tell, SHA-256 only where `compares_hashes`; `failures.jsonl` counts too.
    """
    read = compares_hashes(finished)
    damaged = [shard.name for shard in finished.shards if not _is_as_written(out / shard.name, shard, read)]
    record = out / FAILURES_NAME
    if finished.failures_sha256 and not (record.is_file() and file_sha256(record) == finished.failures_sha256):
        damaged.append(FAILURES_NAME)
    return damaged


def _is_as_written(path: Path, shard: ShardEntry, read: bool) -> bool:
    if not path.is_file() or path.stat().st_size != shard.bytes:
        return False
    return not read or file_sha256(path) == shard.sha256


def accepted(finished: Manifest, out: Path, max_failures: int) -> Manifest:
    """Return a finished folder's manifest; raise `InputError` where it lacks more images than are accepted."""
    if finished.failures > max_failures:
        raise InputError(
            f"{out} lacks {counted(finished.failures, 'image')}, see {FAILURES_NAME}: "
            f"mend and give --retry-failed, or raise --max-failures."
        )
    return finished


def publish(manifest: Manifest, staging: Path, out: Path, replace: bool) -> None:
    """Write the manifest last and move the whole folder into place with one rename.

    With `replace` the older folder in that place is first moved into the staging folder, and files in it that are none
    of ours are kept; after a kill in between, the next run goes on. Raises `OSError` where the place is taken, say by
    another run with other options.
    """
    shards = staging / "shards"
    (shards / FAILURES_NAME).unlink(missing_ok=True)  # of a run that was killed while it published
    if manifest.failures:
        (staging / FAILURES_NAME).replace(shards / FAILURES_NAME)
    if replace:
        _keep_edited_card(out, shards)
    write_side_files(shards, manifest)
    write_manifest(shards, manifest)
    remove_leftovers(shards)  # a worker that was given up may have gone on until now
    if replace:
        _keep_foreign_files(out, shards)
        out.rename(staging / "replaced")
    shards.rename(out)
    remove_staging(staging)


def _keep_edited_card(out: Path, shards: Path) -> None:
    """Link a data card that somebody has edited into the folder that replaces its own."""
    card = out / CARD_NAME
    if card.is_file() and card.read_bytes() != render_card(read_manifest(out)).encode():
        link_or_copy(card, shards / CARD_NAME)


def _keep_foreign_files(out: Path, shards: Path) -> None:
    """Link what else lies in the folder, say a note, into the one that replaces it."""
    named = (MANIFEST_NAME, FAILURES_NAME, CARD_NAME)
    for path in out.iterdir():
        ours = path.name in named or SHARD_NAME.fullmatch(path.name) or SIDE_NAME.fullmatch(path.name)
        if path.is_file() and not ours and not (shards / path.name).exists():
            link_or_copy(path, shards / path.name)


def remove_staging(staging: Path) -> None:
    """Remove the staging folder; what cannot be removed, say the open lock's file on NFS, is left lying.

    The lock goes last: a run that comes meanwhile is kept out, or starts afresh, and leaves nothing behind.
    """
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file into another folder in place of what is there, without copying it where the file system can."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
