"""Files of weights: whole ones are read whatever their suffix, nothing is run, every other file is called by name."""

import fcntl
import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from stylize.console import InputError
from stylize.files import read_weights, recognise, wait_for_turn

TENSORS = {"2.weight": torch.full((4, 3, 3, 3), 0.5), "2.bias": torch.arange(4.0)}
ADVICE = (
    "weights_only",
    "trust",
    "arbitrary",
    "torch.load",
    "two options",
)  # how torch words it


class Hostile:
    """Unpickling it makes the folder `executed`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def torch_bytes(content: object, modern: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=modern)
    return buffer.getvalue()


def script_bytes() -> bytes:
    """Return what `torch.jit.save` writes, as far as a reader looks: a zip with these members."""
    return zip_bytes("model/data.pkl", "model/constants.pkl", "model/code/__torch__.py", "model/version")


def zip_bytes(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def array_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 46830571\n"
KINDS = {
    "it is empty": (b"",),
    "pointer of git-LFS.*git lfs pull": (LFS,),
    "pointer of DVC.*dvc pull": (b"outs:\n- md5: 9f86d081\n  size: 12\n  path: model.pth\n",),
    "HTML page": (
        b"<!DOCTYPE html><html><head><title>404</title></head></html>",
        b"\n\n  <html>not found</html>",
        "\ufeff<!doctype HTML>\n<p>Größe".encode(),
        b"<head><title>Google Drive - Virus scan warning",
    ),
    "XML document": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', b"<Error><Code>NoSuchKey"),
    "JSON document": (b'{"error": "not found"}', b'["a", 1]'),
    "it is a text": (b"epoch,loss\n0,1.5\n", "größe\n".encode() * 900, b"hello", b"Entry not found"),
    "gzip archive": (gzip.compress(b"weights", mtime=0),),
    "tar archive": (tar_bytes(),),
    "zip archive of other files": (zip_bytes("weights.bin"), zip_bytes()),
    "TorchScript": (script_bytes(),),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100),),
    "NumPy": (array_bytes(),),
    "PNG picture": (b"\x89PNG\r\n\x1a\n" + bytes(50),),
    "JPEG picture": (b"\xff\xd8\xff\xe0" + bytes(50),),
    "PDF": (b"%PDF-1.7\n",),
    "zeros": (bytes(5000),),
    "damaged, or holds more than plain tensors": (
        torch_bytes({"2.weight": Hostile()}),
        torch_bytes({"2.weight": Hostile()}, modern=False),
        pickle.dumps(Hostile()),
        pickle.dumps({"2.weight": np.zeros(3)}),
    ),
    "cannot be read": (
        os.urandom(16) + b"\xff\xfe\x00" + os.urandom(500),
        torch_bytes(TENSORS)[:1000],
        save(TENSORS)[:-1],
        struct.pack("<Q", 100) + b"{" + b" " * 40,
    ),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        pytest.param(kind, content, id=f"{kind}-{number}")
        for kind, many in KINDS.items()
        for number, content in enumerate(many)
    ],
)
def test_what_is_no_weights_file_is_called_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, content: bytes, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(f"weights{suffix}")
    path.write_bytes(content)
    with pytest.raises(InputError, match=kind) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"weights{suffix} cannot be read (")
    assert "\n" not in message
    assert not [words for words in ADVICE if words in message]
    assert not Path("executed").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize(
    "content",
    [torch_bytes(OrderedDict(TENSORS)), torch_bytes(OrderedDict(TENSORS), modern=False), save(TENSORS)],
    ids=["zip", "legacy", "safetensors"],
)
def test_whole_files_are_read_by_their_content_and_cut_ones_are_refused(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    read = read_weights(path)
    assert set(read) == set(TENSORS)
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert recognise(path) is None
    for length in [*range(0, len(content), 61), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be read"):
            read_weights(path)


def test_other_things_than_state_dicts_and_files(tmp_path: Path) -> None:
    (tmp_path / "list.pth").write_bytes(torch_bytes([torch.ones(1)]))
    with pytest.raises(InputError, match=r"list\.pth holds no state dict"):
        read_weights(tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"absent\.pth cannot be read \(No such file"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        read_weights(tmp_path)


def test_a_process_waits_for_another_only_as_long_as_that_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylize.files.PATIENCE", 0.3)
    monkeypatch.setattr("stylize.files.POLL_SECONDS", 0.1)
    writes = iter(range(6))

    def other_process_works(seconds: float) -> None:
        if (number := next(writes, None)) is not None:
            (tmp_path / f"shard-{number}").touch()
        sleep(seconds)

    sleep = time.sleep
    monkeypatch.setattr("stylize.files.time.sleep", other_process_works)
    with (tmp_path / "lock").open("w") as held, (tmp_path / "lock").open() as lock:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another run has written nothing"):
            wait_for_turn(lock.fileno(), tmp_path, "Another run")
        assert next(writes, None) is None  # it was waited for while it wrote
        fcntl.flock(held, fcntl.LOCK_UN)
        wait_for_turn(lock.fileno(), tmp_path, "Another run")
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
