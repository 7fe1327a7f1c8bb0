"""The folder of work in progress: named by the specification, locked, and cleared of what killed runs left."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from stylize.atomic import remove_leftovers
from stylize.errors import InputError
from stylize.runs.spec import Spec

STAGING = ".staging"
LOCK_NAME = "lock"


def staging_folder(out: Path, spec: Spec) -> Path:
    """Return where the shards of a specification lie until they are published as `out`: hidden, beside it."""
    return out.parent / STAGING / spec.digest()[:16]


@contextmanager
def locked_staging(staging: Path, *, shared: bool = False) -> Iterator[None]:
    """Create the staging folder and keep other runs out of it; clear what a killed run left half-written.

    With `shared`, runs that do so too may be in it at once; nothing is cleared then.
    """
    with _open_lock(staging) as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another run is making the same shards in {staging}: wait for it to end.") from None
        if not _is_in_place(lock):
            raise _just_ended(staging)
        for folder in ("shards", "receipts", "locks"):  # made under the lock: who is refused leaves nothing behind
            (staging / folder).mkdir(exist_ok=True)
        if not shared:
            remove_leftovers(staging / "shards")
            remove_leftovers(staging / "receipts")
        yield


def _open_lock(staging: Path) -> TextIO:
    try:
        staging.mkdir(parents=True, exist_ok=True)
        (staging.parent / ".gitignore").write_text("*\n")
        return open(staging / LOCK_NAME, "w")
    except FileNotFoundError:  # the folder went between the lines
        raise _just_ended(staging) from None
    except OSError as error:
        raise InputError(f"{staging.parent.parent} cannot be written ({error.strerror}): give another --out.") from None


def _just_ended(staging: Path) -> InputError:
    return InputError(f"Another run has just ended in {staging}: run the same command again.")


def _is_in_place(lock: TextIO) -> bool:
    """Return whether an open lock is still the file of that name: the run that held it may have removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))  # noqa: PTH116
    except FileNotFoundError:
        return False


@contextmanager
def locked_shard(staging: Path, name: str) -> Iterator[None]:
    """Wait until no other process makes this shard, and clear what a killed one left of it."""
    with open(staging / "locks" / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers(staging / "shards", name)
        yield
