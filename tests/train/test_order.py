import numpy as np
import pytest

from stylize.console import InputError
from train.pairs import EpochBatches, hashed, split_validation

KEYS = np.array([f"{index:08d}" for index in range(200)])


def test_split_is_disjoint_complete_and_of_the_asked_size() -> None:
    training, validation = split_validation(KEYS, 0.1, seed=0)
    assert len(validation) == 20
    assert sorted([*training, *validation]) == list(range(200))


def test_split_depends_on_seed_and_keys_alone() -> None:
    order = np.random.default_rng(1).permutation(200)
    _, validation = split_validation(KEYS, 0.1, seed=0)
    _, shuffled = split_validation(KEYS[order], 0.1, seed=0)
    _, other = split_validation(KEYS, 0.1, seed=1)
    assert set(KEYS[validation]) == set(KEYS[order][shuffled])
    assert set(KEYS[validation]) != set(KEYS[other])


def test_split_of_too_few_samples() -> None:
    with pytest.raises(InputError, match="1 training sample cannot be split"):
        split_validation(KEYS[:1], 0.1, seed=0)
    assert [len(part) for part in split_validation(KEYS[:2], 0.1, seed=0)] == [1, 1]


def test_an_epoch_is_a_permutation_shared_equally() -> None:
    indices = np.arange(50, 101)
    ranks = [EpochBatches(indices, 8, seed=3, rank=rank, world_size=2) for rank in range(2)]
    assert [rank.steps for rank in ranks] == [3, 3]
    seen = [index for rank in ranks for _, batch in rank for index in batch]
    assert len(seen) == len(set(seen)) == 48
    assert set(seen) <= set(indices.tolist())


def test_epochs_differ_and_repeat_and_resume() -> None:
    batches = EpochBatches(np.arange(40), 4, seed=0)
    first = list(batches)
    batches.select(epoch=1)
    second = list(batches)
    assert [batch for _, batch in first] != [batch for _, batch in second]
    batches.select(1, first_step=7)
    assert (len(batches), list(batches)) == (3, second[7:])
    batches.select(1, first_step=2, count=3)
    assert (len(batches), list(batches)) == (3, second[2:5])
    assert {epoch for epoch, _ in second} == {1}


def test_less_than_one_batch_is_refused() -> None:
    with pytest.raises(InputError, match="15 training samples cannot fill a batch of 8 on each of 2"):
        EpochBatches(np.arange(15), 8, seed=0, world_size=2)


def test_hash_is_uniform_enough() -> None:
    values = np.array([hashed(0, key) for key in range(4000)], dtype=np.float64) / 2**64
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001
