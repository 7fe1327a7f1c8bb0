"""Tables of samples against the walk through the tars that they replace."""

import io
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylize.console import InputError
from stylize.shards.index import index_name, index_split, load_index
from stylize.shards.manifest import read_manifest
from stylize.shards.verify import verify_shards

TABLE = index_name("train")


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_table_says_what_the_tars_say(finished: Path, split: str) -> None:
    manifest = read_manifest(finished)
    loaded, walked = load_index(finished, manifest, split), index_split(finished, manifest, split)
    assert (finished / index_name(split)).exists() == bool(len(walked))
    for field in fields(walked):
        ours, theirs = getattr(loaded, field.name), getattr(walked, field.name)
        assert type(ours) is type(theirs)
        assert np.array_equal(ours, theirs)


def test_a_folder_without_a_table_is_walked_through(copied: Path) -> None:
    (copied / TABLE).unlink()
    assert load_index(copied, read_manifest(copied), "train").keys.tolist()
    assert verify_shards(copied) == []


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda table: table["shard"].put(0, 1), "other samples"),
        (lambda table: table["label"].put(0, -1), "labels without a class"),
        (lambda table: table["label"].put(0, 10**6), "labels without a class"),
        (lambda table: table["spans"].put(1, 2**62), "places outside the shards"),
        (lambda table: table["spans"].put(0, -512), "places outside the shards"),
        (lambda table: table["spans"].put(1, -1), "places outside the shards"),
        (lambda table: table["spans"].put([0, 1, 2, 3], table["spans"].take([2, 3, 0, 1])), "places out of order"),
    ],
)
def test_a_table_that_cannot_be_of_these_shards_is_refused(
    copied: Path, edit: Callable[[Any], object], reason: str
) -> None:
    table = np.load(copied / TABLE)
    edit(table)
    np.save(copied / TABLE, table)
    with pytest.raises(InputError, match=rf"{TABLE} .*\({reason}\): run `stylize index`"):
        load_index(copied, read_manifest(copied), "train")
    assert [defect.partition(":")[0] for defect in verify_shards(copied)] == [TABLE]


def _pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    return file.getvalue()


def _saved(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "payload", [b"", b"junk", _pickled(), _saved(np.zeros(3)), _saved(np.array(1)), _saved(np.zeros(9))[:150]]
)
def test_other_files_are_refused(copied: Path, payload: bytes) -> None:
    (copied / TABLE).write_bytes(payload)
    with pytest.raises(InputError, match=rf"{TABLE} .*: run `stylize index`"):
        load_index(copied, read_manifest(copied), "train")


def test_a_missing_shard_is_told(copied: Path) -> None:
    (copied / "train-000001.tar").unlink()
    with pytest.raises(InputError, match=r"train-000001.tar is missing"):
        load_index(copied, read_manifest(copied), "train")
