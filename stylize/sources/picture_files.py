"""Find picture files in a folder or zip, and read them."""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from stylize.errors import InputError
from stylize.sources.pictures import PictureError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_BYTES = 600_000_000  # more than the pixels of any accepted picture take


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture in a folder or zip: `name` is its path inside `root`, with forward slashes."""

    root: Path
    name: str

    @property
    def stem(self) -> str:
        """File name without folder and suffix."""
        return PurePosixPath(self.name).stem

    def read(self) -> bytes:
        """Return the file's bytes; raise `PictureError` where it cannot be read or is too large."""
        try:
            return _read_file(self.root / self.name) if self.root.is_dir() else _read_member(self.root, self.name)
        except OSError as error:  # without the path, which differs between machines
            raise PictureError(f"cannot be read: {error.strerror or error}") from None
        except (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise PictureError(f"cannot be read: {error}") from None


def _read_file(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device be read for ever
        raise PictureError("cannot be read: it is not a regular file")
    _check_bytes(status.st_size)
    return path.read_bytes()


def _read_member(root: Path, name: str) -> bytes:
    archive = _open_zip(root, os.getpid())
    _check_bytes(archive.getinfo(name).file_size)
    return archive.read(name)


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise PictureError(f"has {size} bytes, more than the limit of {MAX_BYTES}")


@lru_cache(maxsize=8)
def _open_zip(path: Path, process: int) -> zipfile.ZipFile:
    """Open a zip once per process: a file handle shared over a fork would mix up its position."""
    return zipfile.ZipFile(path)


def list_pictures(root: Path) -> list[PictureFile]:
    """List the picture files below a folder, in a zip, or the one file given, sorted by name.

    Hidden files and folders, macOS resource forks and other suffixes are ignored; links to folders are not followed.
    Raises `InputError` where the root does not exist or a folder cannot be read: its pictures would be lost silently.
    """
    if not exists(root):
        raise InputError(f"{root} does not exist: give a folder, a zip or a picture file.")
    if root.is_dir():
        names = sorted(_walk(root))
    elif zipfile.is_zipfile(root):
        names = sorted(_zip_names(root))
    elif root.suffix.lower() == ".zip":
        raise InputError(f"{root} is not a whole zip: fetch or make it again.")
    else:
        check_name(root.name)
        return [PictureFile(root.parent, root.name)]
    pictures = [PictureFile(root, name) for name in names if _is_picture(PurePosixPath(name))]
    if not pictures:
        raise InputError(f"{root} holds no pictures ({', '.join(sorted(SUFFIXES))}): give another folder, zip or file.")
    for picture in pictures:
        check_name(picture.name)
    return pictures


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


def _zip_names(root: Path) -> list[str]:
    try:
        with zipfile.ZipFile(root) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"The zip {root} cannot be read ({error}): fetch or make it again.") from None


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, onerror=_refuse_folder):
        folders[:] = filter(is_visible, folders)
        for file in files:
            yield Path(folder, file).relative_to(root).as_posix()


def _refuse_folder(error: OSError) -> None:
    raise InputError(f"The folder {error.filename} cannot be read ({error.strerror}): make it readable, or remove it.")


def is_visible(name: str) -> bool:
    """Return whether a file or folder is neither hidden nor one of macOS's resource forks."""
    return not name.startswith((".", "__MACOSX"))


def _is_picture(name: PurePosixPath) -> bool:
    return all(map(is_visible, name.parts)) and name.suffix.lower() in SUFFIXES
