"""The published folder of a job: whether it is there already, and how finished shards get into it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stylize.errors import InputError
from stylize.runs.job import Job
from stylize.runs.spec import Spec
from stylize.shards.manifest import FAILURES_NAME, MANIFEST_NAME, Manifest, read_manifest, write_manifest


def plain_spec(spec: Spec) -> dict[str, Any]:
    """Return the specification as its JSON reads back."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
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
    manifest = read_manifest(out)
    if {**manifest.spec, "source_fingerprint": None} != {**wanted, "source_fingerprint": None}:
        raise InputError(f"{out} holds shards made with other options: give another --out, or remove it.")
    if manifest.spec != wanted and not other_images:
        raise InputError(f"{out} was made before some images changed: give --retry-failed, or another --out.")
    return manifest


def needs_retry(finished: Manifest, job: Job, retry_failed: bool) -> bool:
    """Return whether a finished folder that lacks images, or has others than the source now, is to be mended."""
    return retry_failed and (finished.failures > 0 or finished.spec != plain_spec(job.spec))


def accepted(finished: Manifest, out: Path, max_failures: int) -> Manifest:
    """Return a finished folder's manifest; raise `InputError` where it lacks more images than are accepted."""
    if finished.failures > max_failures:
        raise InputError(
            f"{out} lacks {finished.failures} images, see {FAILURES_NAME}: mend them and give --retry-failed, "
            f"or raise --max-failures."
        )
    return finished


def publish(manifest: Manifest, staging: Path, out: Path, replace: bool) -> None:
    """Write the manifest last and move the whole folder into place with one rename.

    With `replace` the older folder in that place is first moved into the staging folder; after a kill in between, the
    next run goes on. Raises `OSError` where the place is taken, say by another run with other options.
    """
    shards = staging / "shards"
    (shards / FAILURES_NAME).unlink(missing_ok=True)  # of a run that was killed while it published
    if manifest.failures:
        (staging / FAILURES_NAME).replace(shards / FAILURES_NAME)
    write_manifest(shards, manifest)
    if replace:
        out.rename(staging / "replaced")
    shards.rename(out)
    remove_staging(staging)


def remove_staging(staging: Path) -> None:
    """Remove the staging folder; what cannot be removed, say the open lock's file on NFS, is left lying."""
    shutil.rmtree(staging, ignore_errors=True)
