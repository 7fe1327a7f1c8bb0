"""Files that are whole or not there, and files of tensors read without running what they hold."""

import fcntl
import hashlib
import os
import pickle
import secrets
import struct
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stylize.console import PATIENCE, InputError

TEMPORARY_SUFFIX = ".part"
POLL_SECONDS = 0.2


def temporary_path(path: Path) -> Path:
    """Return where a file is written before it is whole: beside it, hidden, and where no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def given_name(path: Path) -> str:
    """Return a folder's or file's own name, without following links: `.` is that of the working folder."""
    return Path(os.path.abspath(path)).name  # noqa: PTH100 - `resolve` would follow links


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written in a folder, of all files or of one."""
    for leftover in folder.glob(f".{name}.*{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def wait_for_turn(lock: int, folder: Path, at_work: str) -> None:
    """Lock an open file as soon as no other process has it.

    Raises `InputError`, which names what is `at_work`, where nothing changes in the folder for `PATIENCE` meanwhile.
    """
    state, since = set[tuple[str, int]](), time.monotonic()  # names and times of the folder's files
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = set()
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):  # others may remove some meanwhile
                    now.add((entry.name, entry.stat().st_mtime_ns))
        if now != state:
            state, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise InputError(f"{at_work} has written nothing for {PATIENCE / 60:.0f} minutes: end it, and run again.")
        time.sleep(POLL_SECONDS)


@contextmanager
def replacing(path: Path, advice: str = "check the folder and the disk") -> Iterator[Path]:
    """Lend a temporary name for a file that takes the place of `path` when it is written; make missing folders.

    Raises `InputError`, with the advice, where that cannot be done; nothing is left of it then.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): {advice}.") from None


def write_atomically(path: Path, payload: bytes, *, flush: bool = True) -> None:
    """Write a file as a whole or not at all (see `replacing`), and flush it to disk.

    Without `flush` a crash of the machine may leave an empty file: for many small ones that are compared later.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(payload)
        if flush:
            file.flush()
            os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_HEAD = 4096  # bytes that tell what a file is
_STARTS = {
    b"version https://git-lfs": "a pointer of git-LFS, fetch the file itself with `git lfs pull`",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes it",
    b"\x1f\x8b": "a gzip archive, unpack it first",
    b"BZh": "a bzip2 archive, unpack it first",
    b"\xfd7zXZ": "an xz archive, unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive, unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive, unpack it first",
    b"Rar!": "a RAR archive, unpack it first",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"%PDF": "a PDF document",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"GIF8": "a GIF picture",
}
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
# What reading a damaged or foreign file raises: torch raises whatever it likes.
UNREADABLE = (
    *(OSError, RuntimeError, ValueError, EOFError, KeyError, IndexError, AttributeError, TypeError, AssertionError),
    *(SafetensorError, struct.error, pickle.UnpicklingError),
)


def read_weights(path: Path) -> Mapping[str, Any]:
    """Return what a safetensors file, or a PyTorch file of a state dict, holds by name; its suffix does not matter.

    Never runs what a pickle holds.  Raises `InputError` for anything else, and says what that is.
    """
    from safetensors.torch import load_file  # with torch, which takes a second

    try:
        state = load_file(path) if is_safetensors(path) else _load_torch(path)
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({why_unreadable(path, error)}): give or fetch another.") from None
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds no state dict (name to tensor): save `model.state_dict()`.")
    return state


def _load_torch(path: Path) -> Any:
    import torch

    # An open file, because torch chooses a reader by a path's suffix; the warnings are about pickles that are refused.
    with warnings.catch_warnings(action="ignore"), open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: the length of a header, and its brace."""
    head = _head(path)
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def why_unreadable(path: Path, error: BaseException) -> str:
    """Return why weights cannot be read: what the file is instead, else the last line that the reader wrote."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.is_dir():
        return "it is a folder"
    if kind := recognise(path):
        return kind
    if isinstance(error, SafetensorError) and _head(path).startswith((b"PK", b"\x80")):
        return "it is a file of PyTorch, not safetensors"
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:  # torch tells how to run the file after all
        return "it is damaged, or holds more than plain tensors and would have to be run"
    return text.splitlines()[-1].strip() if text else type(error).__name__


def recognise(path: Path) -> str | None:
    """Return what a file, which is no weights file, is: "it is an HTML page"; None where it may be one, or is odd."""
    try:
        head = _head(path)
    except OSError:
        return None
    kind = _kind_of_zip(path) if head.startswith(b"PK") else _kind(head)
    return f"it is {kind}" if kind else None


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _kind(head: bytes) -> str | None:
    if not head:
        return "empty"
    if not head.strip(b"\0"):
        return "zeros, as an interrupted download leaves them"
    known = next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)
    if known or head.startswith(b"\x80"):  # a pickle, as torch wrote it before 1.6
        return known
    if head[257:262] == b"ustar":
        return "a tar archive, unpack it first"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\0" in head:
        return None
    if start[:64].lower().startswith(_HTML_STARTS):
        return "an HTML page, saved in place of the file"
    if start.startswith((b"<?xml", b"<Error")):
        return "an XML document, maybe a server's error"
    if start.startswith(b"outs:") and b"md5:" in head:
        return "a pointer of DVC, fetch the file itself with `dvc pull`"
    if start.startswith((b"{", b"[")):
        return "a JSON document"
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return None if error.start < len(head) - 3 else "a text"
    return "a text"


def _kind_of_zip(path: Path) -> str | None:
    """Tell other zips from the ones that torch writes, None for these and for damaged ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return None
    if "constants.pkl" in names:
        return "a TorchScript program, save `model.state_dict()` instead"
    return None if "data.pkl" in names else "a zip archive of other files, unpack it first"
