import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets.cifar

from stylize.console import InputError
from stylize.networks.stylizer import Pixels
from stylize.shards.decode import PictureError, decode_picture
from stylize.sources import Source, export_images
from stylize.sources.opening import open_source
from stylize.sources.shapes import CLASS_NAMES, draw_shape

Listing = dict[str, list[tuple[str, int]]]


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"bytes of {name}".encode())
    return root


def listing(source: Source) -> Listing:
    return {
        split: [(source.path(split, index), source.label(split, index)) for index in range(source.count(split))]
        for split in source.splits
    }


DIVIDED = ("train/dog/1.png", "train/cat/2.png", "train/cat/1.png", "test/dog/1.png")
DIVIDED_LISTING: Listing = {
    "train": [("train/cat/1.png", 0), ("train/cat/2.png", 0), ("train/dog/1.png", 1)],
    "test": [("test/dog/1.png", 1)],
}


def test_a_folder_with_train_and_test(tmp_path: Path) -> None:
    source = open_source(str(fill(tmp_path / "pets", *DIVIDED)))
    assert (source.name, source.class_names) == ("pets", ("cat", "dog"))
    assert listing(source) == DIVIDED_LISTING
    assert source.read("train", 1) == b"bytes of train/cat/2.png"


def test_val_is_test_and_a_wrapper_folder_is_looked_through(tmp_path: Path) -> None:
    names = [f"pets/photos/{name.replace('test/', 'val/')}" for name in DIVIDED]
    found = listing(open_source(str(fill(tmp_path, *names))))
    assert {split: [label for _, label in files] for split, files in found.items()} == {"train": [0, 0, 1], "test": [1]}
    assert found["test"][0][0] == "pets/photos/val/dog/1.png"


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    names = ("train/cat/a/1.png", "train/dog/b/c/1.png", "test/cat/1.png")
    source = open_source(str(fill(tmp_path, *names)))
    assert source.class_names == ("cat", "dog")


def test_without_a_split_a_fraction_is_held_out_by_hash(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{label}/{index}.png" for label in ("cat", "dog", "train") for index in range(300)))
    found = listing(open_source(str(tmp_path), seed=1, test_fraction=0.25))
    assert listing(open_source(str(tmp_path), seed=1, test_fraction=0.25)) == found
    assert [label for _, label in found["test"]] == [0] * 75 + [1] * 75 + [2] * 75
    assert len(found["train"]) == 675
    assert listing(open_source(str(tmp_path), seed=2, test_fraction=0.25)) != found
    (tmp_path / "dog" / "7.png").unlink()
    left = listing(open_source(str(tmp_path), seed=1, test_fraction=0.25))
    assert len(set(found["test"]) ^ set(left["test"])) <= 2


def test_a_zip_is_its_folder(tmp_path: Path) -> None:
    fill(tmp_path / "pets", *DIVIDED)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name in reversed(DIVIDED):
            archive.write(tmp_path / "pets" / name, name)
    folder, packed = open_source(str(tmp_path / "pets")), open_source(str(tmp_path / "pets.zip"))
    assert listing(packed) == listing(folder)
    assert packed.read("test", 0) == folder.read("test", 0)


def test_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    fill(tmp_path, *DIVIDED)
    first = open_source(str(tmp_path)).fingerprint()
    assert open_source(str(tmp_path)).fingerprint() == first
    (tmp_path / DIVIDED[0]).write_bytes(b"longer than it was before")
    second = open_source(str(tmp_path)).fingerprint()
    fill(tmp_path, "train/dog/9.png")
    assert len({first, second, open_source(str(tmp_path)).fingerprint()}) == 3


def test_an_unreadable_file_is_the_readers_problem(tmp_path: Path) -> None:
    fill(tmp_path, *DIVIDED)
    (tmp_path / "train/cat/0.png").symlink_to("0.png")
    source = open_source(str(tmp_path))
    with pytest.raises(PictureError, match="cannot be read"):
        source.read("train", 0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no pictures: give another folder or zip"),
        (("cat/notes.txt",), "holds no pictures"),
        (("cat/1.png", "cat/2.png"), r"fewer than two class folders with pictures \(cat\)"),
        (("train/cat/1.png", "train/dog/1.png", "test/cow/1.png"), "classes cow are in the test split but not in"),
        (("cat/1.png", "dog/1.png", "1.png"), r"the picture 1\.png lies in no class folder"),
        (("train/cat/1.png", "train/dog/1.png", "train/1.png"), r"train/1\.png lies in no class folder"),
        (("train/cat/1.png", "train/dog/1.png", "cow/1.png"), "train name splits, but cow beside them does not"),
    ],
)
def test_folders_that_are_no_data_set_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(str(fill(tmp_path, *names)))


@pytest.mark.parametrize("name", ["train/cow", "test/cow"])
@pytest.mark.parametrize("kind", ["empty", "text", "unknown"])
def test_a_class_folder_without_pictures_is_named(tmp_path: Path, name: str, kind: str) -> None:
    root = fill(tmp_path / "pets", *DIVIDED, "train/.cache/x", "train/__MACOSX/x", "notes/x")
    assert open_source(str(root)).class_names == ("cat", "dog")
    (root / name).mkdir()
    if kind == "text":
        (root / name / "notes.txt").write_text("no picture")
    if kind == "unknown":
        (root / name / "notes.xyz").write_text("no picture")
    with pytest.raises(InputError, match=f"the folder {name} has no pictures"):
        open_source(str(root))


def test_a_missing_path_and_a_single_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no data set"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="There is no data set ''"):
        open_source("")
    fill(tmp_path, "1.png", "cut.zip")
    (tmp_path / "cut.tgz").write_bytes(gzip.compress(b"long enough to be cut")[:12])
    files = {"1.png": "is a single file and no zip", "cut.zip": "is not a whole zip", "cut.tgz": "is a single file"}
    for name, message in files.items():
        with pytest.raises(InputError, match=message):
            open_source(str(tmp_path / name))


def test_a_data_sets_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "caf\udce9", "a/1.png", "b/1.png")
    with pytest.raises(InputError, match="not UTF-8: rename it"):
        open_source(str(tmp_path / "caf\udce9"))


def test_an_image_that_a_zip_no_longer_holds_is_named(tmp_path: Path) -> None:
    source = open_source(str(packed(tmp_path / "pets.zip", *DIVIDED)))
    packed(tmp_path / "pets.zip", "train/cat/other.png")
    with pytest.raises(PictureError, match="cannot be read"):
        source.read("train", 0)


def test_a_zip_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    for kind in ("cat", "fox"):
        names = f"train/{kind}/1.png", "train/dog/1.png", "test/dog/2.png"
        source = open_source(str(packed(tmp_path / "pets.zip", *names)))
        assert (source.class_names, source.count("train")) == (tuple(sorted((kind, "dog"))), 2)
        images = [source.read("train", index) for index in range(2)]
        assert f"bytes of train/{kind}/1.png".encode() in images


def packed(root: Path, *names: str) -> Path:
    with zipfile.ZipFile(root, "w") as archive:
        for name in names:
            archive.writestr(name, f"bytes of {name}")
    return root


def test_the_name_is_the_one_given_and_not_that_behind_a_link(tmp_path: Path) -> None:
    packed(tmp_path / "89384232b7", *DIVIDED)
    (tmp_path / "pets.zip").symlink_to("89384232b7")
    assert open_source(str(tmp_path / "pets.zip")).name == "pets.zip"
    fill(tmp_path / "0a1b", "1.png", "2.png")
    (tmp_path / "flat").symlink_to("0a1b")
    flat = open_source(str(tmp_path / "flat" / "." / ".." / "flat"))
    assert (flat.name, flat.class_names) == ("flat", ("flat",))


def test_the_first_hundred_synsets_or_those_of_a_list(tmp_path: Path) -> None:
    synsets = [f"n{number:08d}" for number in range(0, 1010, 10)]
    for name in reversed(synsets):
        for split in ("train", "val"):
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            (tmp_path / "tree" / split / name / "a.png").write_bytes(b"picture")
    source = open_source(f"imagenet100:{tmp_path}/tree")
    assert source.class_names == tuple(synsets[:100])
    assert (source.count("train"), source.count("test")) == (100, 100)
    (tmp_path / "list.txt").write_text(f"{synsets[100]} tench\n\n{synsets[3]}\n")
    source = open_source(f"imagenet100:{tmp_path}/tree:{tmp_path}/list.txt")
    assert source.class_names == (synsets[3], synsets[100])
    assert {source.path("test", i) for i in range(2)} == {f"val/{synsets[n]}/a.png" for n in (3, 100)}
    (tmp_path / "list.txt").write_text("n99999999\n")
    with pytest.raises(InputError, match=r"list\.txt .*'n99999999'"):
        open_source(f"imagenet100:{tmp_path}/tree:{tmp_path}/list.txt")
    with pytest.raises(InputError, match="has 2 classes, not 100 or more"):
        open_source(f"imagenet100:{small_tree(tmp_path / 'small')}")


def small_tree(folder: Path) -> Path:
    for name in ("n1", "n2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"picture")
    return folder


def test_a_flat_folder_is_one_class(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(10):
        (tmp_path / "flat" / f"{number}.png").write_bytes(b"picture")
    (tmp_path / "flat" / "notes.txt").write_text("none")
    source = open_source(str(tmp_path / "flat"))
    assert source.class_names == ("flat",)
    assert (source.count("train"), source.count("test"), source.label("train", 0)) == (9, 1, 0)


def test_shapes_are_drawn_without_loss() -> None:
    source = open_source("shapes")
    assert (source.class_names, source.count("train"), source.count("test")) == (CLASS_NAMES, 4000, 1000)
    for split in ("train", "test"):
        drawn = draw_shape(13, size=64, split=split)
        assert decode_picture(source.read(split, 13)).tobytes() == drawn.picture.tobytes()
        assert source.label(split, 13) == drawn.shape == 3
        assert source.path(split, 13) == f"{split}/{CLASS_NAMES[3]}/00013.png"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_network_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)
    with pytest.raises(InputError, match=f"{name} .*data/downloads"):
        open_source(name)


def test_cifar_in_torchvisions_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: Callable[..., Pixels]
) -> None:
    """Torchvision reads CIFAR's own files; ten pictures in their layout, without its checksums."""
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "data/downloads" / torchvision.datasets.CIFAR10.base_folder
    base.mkdir(parents=True)
    rows = np.stack([noise(index).transpose(2, 0, 1).reshape(-1) for index in range(10)])
    for name in [*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]:
        (base / name).write_bytes(pickle.dumps({"data": rows, "labels": list(range(10))}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{label}" for label in range(10)]}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    source = open_source("cifar10")
    assert (source.count("train"), source.count("test")) == (50, 10)
    assert source.class_names[3] == "class3"
    assert np.array_equal(np.asarray(decode_picture(source.read("train", 13))), noise(3))
    assert (source.label("train", 13), source.path("train", 13)) == (3, "train/class3/00013.png")


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
