"""Files that are whole or not there."""

import os
from pathlib import Path

from stylize.errors import InputError

TEMPORARY_SUFFIX = ".part"


def temporary_path(path: Path) -> Path:
    """Return where this process writes a file before it is whole: beside it and hidden."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder."""
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink()


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it; make missing folders.

    Raises `InputError` where that cannot be done; nothing is left of it then.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): check the folder and the disk.") from None
