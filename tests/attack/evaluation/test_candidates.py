import hashlib

import pytest

from attack import candidate_order, choose_candidates

KEYS = [f"{index:08d}" for index in range(200)]


def test_order_is_that_of_the_hashes() -> None:
    digests = {hashlib.sha256(b"3:" + key.encode()).hexdigest(): key for key in KEYS}
    expected = [digests[digest] for digest in sorted(digests)]
    assert candidate_order(KEYS, seed=3) == expected
    assert candidate_order(reversed(KEYS), seed=3) == expected
    assert candidate_order(KEYS, seed=4) != expected
    assert expected != KEYS


def test_two_models_meet_the_same_candidates() -> None:
    first = {key: int(key) % 3 != 0 for key in KEYS}
    second = {key: int(key) % 5 != 0 for key in reversed(KEYS)}
    one, two = choose_candidates(first, 50), choose_candidates(second, 50)

    both = {key for key in KEYS if first[key] and second[key]}
    walked = set(candidate_order(KEYS)[: min(one.walked, two.walked)])
    assert both & walked <= set(one.keys)
    assert both & walked <= set(two.keys)


@pytest.mark.parametrize(("images", "kept"), [(1, 1), (50, 50), (100, 100), (101, 100), (1000, 100)])
def test_walk_stops_at_the_last_image_needed(images: int, kept: int) -> None:
    correct = {key: int(key) % 2 == 0 for key in KEYS}
    chosen = choose_candidates(correct, images)

    walked = candidate_order(KEYS)[: chosen.walked]
    assert list(chosen.keys) == [key for key in walked if correct[key]]
    assert len(chosen.keys) == kept
    assert chosen.walked == (200 if images > 100 else walked.index(chosen.keys[-1]) + 1)


def test_no_image_is_correct() -> None:
    chosen = choose_candidates(dict.fromkeys(KEYS, False), 10)
    assert (chosen.keys, chosen.walked) == ((), 200)
