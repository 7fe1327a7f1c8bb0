"""Pictures in `.npz` files, and what Hugging Face `datasets` reads."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stylize.console import InputError
from stylize.shards.decode import PictureError, decode_picture
from stylize.sources import Source
from stylize.sources.opening import open_source

PICTURES = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


def pixels(source: Source, split: str, index: int) -> NDArray[np.uint8]:
    return np.asarray(decode_picture(source.read(split, index)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_held_out_by_class_and_read_without_loss(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "pool.npz", image=PICTURES, label=LABELS, class_names=np.array(["cat", "dog"]))
    source = open_source(str(tmp_path / "pool.npz"), test_fraction=0.2)
    assert (source.name, source.class_names) == ("pool.npz", ("cat", "dog"))
    assert (source.count("train"), source.count("test")) == (16, 4)
    assert sorted(source.label("test", index) for index in range(4)) == [0, 0, 1, 1]
    for split in source.splits:
        for index in range(source.count(split)):
            name, _, number = source.path(split, index).removesuffix(".png").partition("/")
            assert name == ("cat", "dog")[source.label(split, index)]
            assert np.array_equal(pixels(source, split, index), PICTURES[int(number)])
    assert open_source(str(tmp_path / "pool.npz"), test_fraction=0.2).fingerprint() == source.fingerprint()


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", image=PICTURES, label=LABELS * 5 + 2)
    source = open_source(str(tmp_path / "pool.npz"))
    assert source.class_names == ("2", "7")
    first = source.fingerprint()
    np.savez(tmp_path / "pool.npz", image=255 - PICTURES, label=LABELS * 5 + 2)
    assert open_source(str(tmp_path / "pool.npz")).fingerprint() != first


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": PICTURES}, "no array 'label'"),
        ({"x": PICTURES, "label": LABELS}, "no array 'image' .*label, x"),
        ({"image": PICTURES[..., :1], "label": LABELS}, r"\(20, 8, 8, 1\).*\(N, H, W, 3\)"),
        ({"image": PICTURES / 255, "label": LABELS}, "float64"),
        ({"image": PICTURES[:0], "label": LABELS[:0]}, r"\(0, 8, 8, 3\)"),
        ({"image": PICTURES, "label": LABELS[:3]}, r"shape \(3,\).*\(20,\)"),
        ({"image": PICTURES, "label": LABELS / 2}, "label is float64"),
        ({"image": PICTURES, "label": LABELS - 1}, "label holds -1"),
        ({"image": PICTURES, "label": LABELS, "class_names": np.array(["cat"])}, "label 1, but names 1 class"),
        ({"image": PICTURES, "label": LABELS, "class_names": np.array(["a", "a"])}, "class_names"),
        ({"image": PICTURES, "label": LABELS.astype(object)}, "pickled objects"),
        ({"image": PICTURES.astype(object), "label": LABELS}, "pickled objects"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "pool.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=rf"pool\.npz.*{message}"):
        open_source(str(tmp_path / "pool.npz"))


def test_a_damaged_file_of_arrays_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", image=PICTURES, label=LABELS)
    whole = (tmp_path / "pool.npz").read_bytes()
    for damaged in (whole[:1000], b"", whole.replace(b"NUMPY", b"NUMPI")):
        (tmp_path / "pool.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"pool\.npz cannot be read"):
            open_source(str(tmp_path / "pool.npz"))
    with pytest.raises(InputError, match=r"no data set .*absent\.npz"):
        open_source(str(tmp_path / "absent.npz"))


@pytest.fixture
def make_table(hf_datasets: Any, tmp_path: Path, encode: Callable[..., bytes]) -> Callable[..., Path]:
    """Write a Parquet file of so many rows a split; other columns replace those of pictures and labels."""

    def make(folder: str, counts: dict[str, int], kind: Any = None, **columns: list[Any]) -> Path:
        (tmp_path / folder / "data").mkdir(parents=True)
        for split, count in counts.items():
            rows = {
                "image": [{"bytes": encode(PICTURES[row]), "path": f"{row}.png"} for row in range(count)],
                "label": [row % 2 for row in range(count)],
            } | columns
            features = {"image": hf_datasets.Image(), "label": kind or hf_datasets.ClassLabel(names=["cat", "dog"])}
            kinds = hf_datasets.Features({name: features[name] for name in rows})
            file = tmp_path / folder / "data" / f"{split}-00000-of-00001.parquet"
            hf_datasets.Dataset.from_dict(rows, features=kinds).to_parquet(file)
        return tmp_path / folder

    return make


def test_parquet_with_splits(make_table: Callable[..., Path], encode: Callable[..., bytes]) -> None:
    folder = make_table("pets", {"train": 6, "validation": 3, "test": 4})
    source = open_source(f"hf:{folder}")
    assert (source.name, source.class_names, source.splits) == ("pets", ("cat", "dog"), ("train", "test", "val"))
    assert [source.count(split) for split in source.splits] == [6, 4, 3]
    for split in source.splits:
        for index in range(source.count(split)):
            assert source.read(split, index) == encode(PICTURES[index])
            assert source.label(split, index) == index % 2
    assert source.path("val", 1) == "validation/00000001.png"
    assert open_source(f"hf:{folder}").fingerprint() == source.fingerprint()
    one = open_source(f"hf:{folder}:train", test_fraction=0.34)
    assert (one.count("train"), one.count("test")) == (4, 2)


def test_a_folder_of_pictures_leaves_litter_out(hf_datasets: Any, tmp_path: Path, encode: Callable[..., bytes]) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for row in range(5):
            (tmp_path / "pets" / name / f"{row}.png").write_bytes(encode(PICTURES[row]))
        (tmp_path / "pets" / name / "._0.png").write_bytes(b"a resource fork")
    source = open_source(f"hf:{tmp_path}/pets", test_fraction=0.2)
    assert (source.class_names, source.count("train"), source.count("test")) == (("cat", "dog"), 8, 2)
    assert np.array_equal(pixels(source, "train", 0), PICTURES[int(source.path("train", 0)[6:14]) % 5])
    for name in ("cat", "dog"):
        for row in range(5):
            (tmp_path / "pets" / name / f"{row}.png").unlink()
    with pytest.raises(PictureError, match="cannot be read"):
        source.read("train", 0)


def test_tables_that_are_no_labelled_data_set_are_refused(
    hf_datasets: Any, make_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = hf_datasets.Value("int64")
    pets = make_table("pets", {"train": 2, "extra": 2})
    hf_datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).to_parquet(tmp_path / "text" / "train.parquet")
    cases = {
        make_table("test-only", {"test": 4}): "no training split",
        make_table("null", {"train": 2}, numbers, label=[0, None]): "row 1 of train has the label None",
        make_table("minus", {"train": 2}, label=[0, -1]): "row 1 of train has the label -1",
        f"{pets}": "split 'extra', which is none of train",
        f"{pets}:oops": "oops",
        tmp_path / "text": "no column of images .*label, text",
        tmp_path / "absent": "absent",
    }
    for data, message in cases.items():
        with pytest.raises(InputError, match=rf"^hf:.*{message}"):
            open_source(f"hf:{data}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"stylized-pairing\[hub\]"):
        open_source(f"hf:{pets}:train")
