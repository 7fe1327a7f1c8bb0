"""Files that are whole or not there."""

import os
import secrets
from pathlib import Path

from stylize.errors import InputError

TEMPORARY_SUFFIX = ".part"


def temporary_path(path: Path) -> Path:
    """Return where a file is written before it is whole: beside it, hidden, and where no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written in a folder, of all files or of one."""
    for leftover in folder.glob(f".{name}.*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def write_atomically(path: Path, payload: bytes, *, flush: bool = True) -> None:
    """Write a file under a temporary name, flush it to disk and rename it; make missing folders.

    Without `flush` a crash of the machine may leave an empty file: for many small ones that are compared later.
    Raises `InputError` where that cannot be done; nothing is left of it then.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(payload)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): check the folder and the disk.") from None
