from collections import Counter
from dataclasses import dataclass
from typing import cast

import pytest

from stylize.console import InputError
from stylize.jobs.cue_conflict import design_cues
from stylize.sources.source import Source


@dataclass
class Labels:
    """A source of which only the labels of the test images are looked at."""

    labels: list[int]
    name: str = "labels"

    def count(self, split: str) -> int:
        return len(self.labels) if split == "test" else 0

    def label(self, split: str, index: int) -> int:
        return self.labels[index]


def source_of(labels: list[int]) -> Source:
    return cast(Source, Labels(labels))


def test_every_pair_of_classes_is_as_frequent_as_any_other() -> None:
    labels = [index % 4 for index in range(80)]
    cues = design_cues(source_of(labels), per_class=6, seed=0)
    pairs = Counter((labels[cue.shape], labels[cue.texture]) for cue in cues)
    assert pairs == {(shape, texture): 2 for shape in range(4) for texture in range(4) if shape != texture}
    assert len({cue.shape for cue in cues}) == 24


def test_classes_of_any_size() -> None:
    labels = [0] * 50 + [1] + [2] * 3  # and no image of class 3
    cues = design_cues(source_of(labels), per_class=5, seed=1)
    assert Counter(labels[cue.shape] for cue in cues) == {0: 5, 1: 1, 2: 3}
    assert all(labels[cue.shape] != labels[cue.texture] for cue in cues)


def test_the_seed_alone_decides() -> None:
    labels = [index % 3 for index in range(60)]
    designs = [design_cues(source_of(labels), per_class=8, seed=seed) for seed in (0, 0, 1)]
    assert designs[0] == designs[1] != designs[2]


def test_one_class_has_no_conflict() -> None:
    with pytest.raises(InputError, match="test images of 1 classes"):
        design_cues(source_of([5, 5]), per_class=5, seed=0)
