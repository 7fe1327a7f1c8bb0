"""Layouts as people have them: every one is read as it is meant, or refused with the reason."""

import pytest

from stylize.console import InputError
from stylize.sources.splits import read_layout


def paths(*folders: str) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(2)]


DIVIDED: dict[str, tuple[str | None, str]] = {
    "TRAIN/a": ("train", "a"), "TRAIN/b": ("train", "b"), "Val/a": ("val", "a"), "TeSt/b": ("test", "b"),
}  # fmt: skip
READ: list[dict[str, tuple[str | None, str]]] = [
    DIVIDED,
    {f"data/raw/{folder}": place for folder, place in DIVIDED.items()},
    {"Training Set/a": ("train", "a"), "Training Set/b": ("train", "b"), "Validation Set/a": ("val", "a")},
    {"train_images/a": ("train", "a"), "train_images/b": ("train", "b"), "test-images/a": ("test", "a")},
    {"a": (None, "a"), "b/x": (None, "b"), "b/y/z": (None, "b")},
    {"bus": (None, "bus"), "train": (None, "train")},
    {"vehicles/train": (None, "vehicles"), "vehicles/bus": (None, "vehicles"), "animals": (None, "animals")},
    {"eval_good": (None, "eval_good"), "test_bad": (None, "test_bad")},
    {"A": (None, "A"), "a": (None, "a")},
]
REFUSED = [
    (("my_train/a", "my_train/b", "my_test/a", "my_test/b"), "seem to name splits"),
    (("trainA", "trainB", "testA", "testB"), "seem to name splits"),
    (("imagesTrain/a", "imagesTrain/b", "imagesTest/a", "imagesTest/b"), "seem to name splits"),
    (("train1/a", "train1/b", "test/a", "test/b"), "no training split"),
    (("train/a", "train/b", "Training/a", "Training/b"), "both name the train split"),
    (("train/a", "train/b", "unlabelled"), "unlabelled beside them does not"),
    (("a/train", "a/test", "b/train", "b/test"), "put the splits above the classes"),
    (("a/train", "a/test", "b"), "name splits below classes"),
    (("d1/train/a", "d1/train/b", "d2/test/a", "d2/test/b"), "name splits below classes"),
    (("train/a/train", "train/a/test", "train/b", "test/a"), "name splits below classes"),
    (("train/Cat", "train/Dog", "test/cat"), "use one spelling"),
    (("train/a", "train/b", "test/c"), "are in the test split but not in train"),
    (("fold1/a", "fold1/b", "fold2/a", "fold2/b"), "all hold the same folders"),
    (("train", "test"), "hold no class folders"),
]


@pytest.mark.parametrize("places", READ, ids=lambda places: " ".join(places))
def test_layouts_that_mean_one_thing(places: dict[str, tuple[str | None, str]]) -> None:
    found = read_layout("data", paths(*places)).places
    assert list(found) == [place for place in places.values() for _ in range(2)]


@pytest.mark.parametrize(("folders", "reason"), REFUSED, ids=str)
def test_layouts_that_could_mean_two_things(folders: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_layout("data", paths(*folders))
