"""A picture's file in a folder or zip, and reading it."""

import lzma
import os
import stat
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from stylize.errors import InputError
from stylize.sources.pictures import PictureError

MAX_BYTES = 600_000_000  # more than the pixels of any accepted picture take


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a folder or zip: `name` is its path inside `root`, with forward slashes.

    `member` is what a zip calls it, where that differs; `problem` says why it cannot be read, where that is known.
    """

    root: Path
    name: str
    member: str = ""
    problem: str = ""

    @property
    def stem(self) -> str:
        """File name without folder and suffix."""
        return PurePosixPath(self.name).stem

    @property
    def path_stem(self) -> str:
        """The name without its suffix."""
        return str(PurePosixPath(self.name).with_suffix(""))

    def read(self) -> bytes:
        """Return the file's bytes; raise `PictureError` where it cannot be read or is too large."""
        if self.problem:
            raise PictureError(self.problem)
        try:
            if self.root.is_dir():
                return _read_file(self.root / self.name)
            return _read_member(self.root, self.member or self.name)
        except OSError as error:  # without the path, which differs between machines
            raise PictureError(f"cannot be read: {error.strerror or error}") from None
        except (EOFError, KeyError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
            raise PictureError(f"cannot be read: {error}") from None


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device be read for ever
        raise PictureError("cannot be read: it is not a regular file")
    _check_bytes(status.st_size)
    return path.read_bytes()


def _read_member(root: Path, name: str) -> bytes:
    archive = open_zip(root)
    _check_bytes(archive.getinfo(name).file_size)
    return archive.read(name)


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise PictureError(f"has {size} bytes, more than the limit of {MAX_BYTES}")


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip, once for a process and a state of the file; raises as `zipfile.ZipFile`.

    A handle shared over a fork would mix up its position, and reading the directory of a large zip takes a second.
    """
    status = path.stat()
    return _opened_zip(path, os.getpid(), (status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=8)
def _opened_zip(path: Path, process: int, state: tuple[int, int, int]) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def exists(path: Path) -> bool:
    """Return whether a path is there; raise `InputError` where that cannot be told."""
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None


def check_name(name: str) -> None:
    """Raise `InputError` for a name that is not UTF-8, which no manifest could hold."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of another encoding, which Python keeps as lone surrogates
        raise InputError(f"The file name {name!r} is not UTF-8: rename it.") from None
