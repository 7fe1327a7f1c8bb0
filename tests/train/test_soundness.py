from collections.abc import Callable
from pathlib import Path

import pytest

from stylize.console import InputError
from train import PairDataset
from train.run import refuse_single_class, warn_of_suspicions

ShardFolderMaker = Callable[..., Path]


def _warnings(shards: Path) -> list[str]:
    warnings: list[str] = []
    warn_of_suspicions(PairDataset(shards, "train"), {"test": PairDataset(shards, "test")}, warnings.append)
    return warnings


def test_sound_shards_say_nothing(make_shard_folder: ShardFolderMaker) -> None:
    assert _warnings(make_shard_folder()) == []
    assert _warnings(make_shard_folder("bare", styles_per_image=0, test=0)) == []


def test_mixed_up_pairs_are_warned_of(make_shard_folder: ShardFolderMaker) -> None:
    shards = make_shard_folder()
    samples = PairDataset(shards, "train")
    samples.index.spans[:, 1] = samples.index.spans[::-1, 1][:, :]
    warnings: list[str] = []
    warn_of_suspicions(samples, {}, warnings.append)
    assert [warning[:14] for warning in warnings] == ["Warning: only "]


def test_a_single_class_is_refused(make_shard_folder: ShardFolderMaker) -> None:
    with pytest.raises(InputError, match="of one class"):
        refuse_single_class(PairDataset(make_shard_folder(classes=1), "train"))
