"""Files that are whole or not there."""

import os
from pathlib import Path

from stylize.errors import InputError


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it; make missing folders.

    Raises `InputError` where that cannot be done; nothing is left of it then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
