"""Find picture files in a folder or zip, and decode them to RGB with one documented policy for odd ones."""

import io
import os
import stat
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stylize.errors import InputError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 64_000_000
MAX_ASPECT_RATIO = 16
MAX_BYTES = 600_000_000  # more than the pixels of any accepted picture take
_FILTERS = threading.Lock()  # warning filters are the process's, and pictures are decoded in threads


class PictureError(Exception):
    """Why a file cannot be used as a picture; the caller records it and goes on."""


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright 8-bit RGB picture, and its file's format, as Pillow names it, if nothing had to change for that."""

    picture: Image.Image
    plain_format: str | None


def list_pictures(root: Path) -> list[PictureFile]:
    """List the picture files below a folder, in a zip, or the one file given, sorted by name.

    Hidden files, macOS resource forks and other suffixes are ignored; links to folders are not followed.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist: give a folder, a zip or a picture file.")
    if root.is_dir():
        names = sorted(_walk(root))
    elif zipfile.is_zipfile(root):
        names = sorted(_zip_names(root))
    elif root.suffix.lower() == ".zip":
        raise InputError(f"{root} is not a whole zip: fetch or make it again.")
    else:
        return [PictureFile(root.parent, root.name)]
    pictures = [PictureFile(root, name) for name in names if _is_picture(PurePosixPath(name))]
    if not pictures:
        raise InputError(f"{root} holds no pictures ({', '.join(sorted(SUFFIXES))}): give another folder, zip or file.")
    for picture in pictures:
        if not _is_utf8(picture.name):
            raise InputError(f"{root} holds the file name {picture.name!r}, which is not UTF-8: rename it.")
    return pictures


def _zip_names(root: Path) -> list[str]:
    try:
        with zipfile.ZipFile(root) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"The zip {root} cannot be read ({error}): fetch or make it again.") from None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes of another encoding, which Python keeps as lone surrogates
        return False
    return True


def _walk(root: Path) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        for file in files:
            yield Path(folder, file).relative_to(root).as_posix()


def _is_picture(name: PurePosixPath) -> bool:
    visible = not any(part.startswith((".", "__MACOSX")) for part in name.parts)
    return visible and name.suffix.lower() in SUFFIXES


def decode_picture(data: bytes) -> Image.Image:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer."""
    return decode(data).picture


def decode(data: bytes) -> Decoded:
    """Decode to an upright 8-bit RGB picture; raise `PictureError` with the reason where there is no right answer.

    First frame of an animation; EXIF orientation applied; transparency composited on white; 16-bit grey scaled to 8;
    floating-point pixels refused.
    A JPEG whose scan is corrupt but complete is decoded as far as Pillow can, as every other tool does.
    """
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
        _check_size(*picture.size)
        picture.load()
        plain = _is_plain(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        return Decoded(_to_rgb(picture), picture.format if plain else None)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError("is larger than any real picture (decompression bomb)") from None
    except PictureError:
        raise
    except UnidentifiedImageError:  # its message holds a memory address, different in every run
        raise PictureError("is not a picture in a known format") from None
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        raise PictureError(f"cannot be decoded: {error}") from None


def _is_plain(picture: Image.Image) -> bool:
    """Tell whether a picture is upright RGB and a single frame."""
    upright = picture.getexif().get(0x0112, 1) == 1
    opaque = picture.mode == "RGB" and not picture.has_transparency_data
    # Pages of a TIFF are read for their number, and some may be damaged; no codec keeps a TIFF.
    return upright and opaque and picture.format != "TIFF" and getattr(picture, "n_frames", 1) == 1


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"has {width}×{height} pixels, more than the limit of {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise PictureError(f"has the aspect ratio of {width}×{height}, beyond the limit of {MAX_ASPECT_RATIO}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise PictureError("has floating-point pixels, whose range is not known")
    if picture.mode.startswith("I"):  # 16-bit grey: a plain conversion to RGB would clip it to white
        grey = np.clip(np.asarray(picture, dtype=np.float64) / 257.0, 0, 255).round().astype(np.uint8)
        picture = Image.fromarray(grey)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    rgb = picture.convert("RGB")
    rgb.info.clear()  # a colour profile or a comment of the source would be written into its copies
    return rgb
