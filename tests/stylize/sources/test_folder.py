import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError
from stylize.sources.folder import list_files, list_pictures

Noise = Callable[..., Pixels]
Encode = Callable[..., bytes]


def test_a_folders_pictures_by_name(tmp_path: Path, encode: Encode, noise: Noise) -> None:
    visible = ["a b.png", "c.d.e.JPG", "deep/er/x.webp", "x.jpeg", "x.jpg", "über/日本.png"]
    visible += ["noext", "odd.suffix"]
    ignored = [".hidden.png", ".folder/x.png", "__MACOSX/x.png", "notes.txt", "a/.DS_Store", "Thumbs.db"]
    for name in [*visible, *ignored]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(noise(0)))
    files = list_pictures(tmp_path)
    assert [file.name for file in files] == sorted(visible)
    assert [file.stem for file in files][:3] == ["a b", "c.d.e", "x"]
    assert dict(list_files(tmp_path).ignored) == {"hidden": 5, ".txt": 1}


def test_a_zip_lists_and_reads_as_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b/2.png", "b/1.png", "a/x.png", "a/notes.txt"):
            archive.writestr(name, name)
    files = list_pictures(tmp_path / "a.zip")
    assert [file.name for file in files] == ["a/x.png", "b/1.png", "b/2.png"]
    assert [file.read() for file in files] == [file.name.encode() for file in files]


def test_links_do_not_lead_into_loops(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "absent")
    files = list_pictures(tmp_path)
    assert [file.name for file in files] == ["dangling.png", "loop", "self.png"]
    for file in files:
        with pytest.raises(PictureError, match=r"cannot be read|is a link to a folder around it"):
            file.read()


def test_a_corrupt_zip_member_is_a_picture_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(range(256)) * 20)
        archive.writestr("b.png", b"whole")
        start = archive.getinfo("a.png").header_offset + 30 + len("a.png")
    data = bytearray(path.read_bytes())
    for position in (start, start + 50):
        damaged = bytearray(data)
        damaged[position : position + 8] = b"\xff" * 8
        other = tmp_path / f"{position}.zip"
        other.write_bytes(damaged)
        first, second = list_pictures(other)
        with pytest.raises(PictureError, match="cannot be read"):
            first.read()
        assert second.read() == b"whole"


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\x01\x02", b"PK\xff\xff"))
    with pytest.raises(InputError, match=r"The zip .* cannot be read"):
        list_pictures(path)


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        list_pictures(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        list_pictures(tmp_path / "absent")


def test_a_folder_that_cannot_be_read_loses_no_picture_silently(
    tmp_path: Path, encode: Encode, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.png", "a/closed/y.png", ".hidden/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(noise(0)))
    scan = os.scandir

    def refuse(folder: str) -> object:  # as the file system does, but also to root
        if Path(folder).name in ("closed", ".hidden"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scan(folder)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"closed .*Permission denied"):
        list_pictures(tmp_path)
    assert [file.name for file in list_pictures(tmp_path / "a/x.png")] == ["x.png"]


def test_names_that_are_too_long_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list_pictures(tmp_path / ("x" * 300))


def test_file_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a\udcff.png").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a\udcff.png"):
        with pytest.raises(InputError, match="not UTF-8: rename it"):
            list_pictures(path)
