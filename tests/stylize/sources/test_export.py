import zipfile
from pathlib import Path

import pytest

from stylize.console import InputError
from stylize.sources.source import export_images, open_source


def test_the_zip_is_a_source_of_the_same_images(class_folders: Path, tmp_path: Path) -> None:
    source = open_source(str(class_folders))
    out = tmp_path / "made" / "images.zip"
    assert export_images(source, out) == 16
    packed = open_source(str(out))
    assert packed.class_names == source.class_names
    for split in ("train", "test"):
        assert packed.count(split) == source.count(split)
        for index in range(source.count(split)):
            assert packed.read(split, index) == source.read(split, index)
            assert packed.label(split, index) == source.label(split, index)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "train/cat/00000000.png"


def test_equal_images_give_equal_bytes(class_folders: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        export_images(open_source(str(class_folders)), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_an_unreadable_image_leaves_nothing(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "test/dog/zzz.png").symlink_to("zzz.png")
    out = tmp_path / "out" / "images.zip"
    with pytest.raises(InputError, match=r"The image test/dog/zzz\.png cannot be read"):
        export_images(open_source(str(class_folders)), out)
    assert not list(out.parent.iterdir())


def test_an_output_that_cannot_be_written_is_named(class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "images.zip", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            export_images(open_source(str(class_folders)), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "images"]
