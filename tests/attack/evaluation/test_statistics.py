"""Intervals and tests against SciPy's, and against slow loops."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from attack import compare, share
from attack.evaluation.statistics import compare_family, holm

Array = NDArray[np.float64]


@pytest.mark.parametrize(("right", "n"), [(0, 100), (100, 100), (37, 50), (1, 3)])
def test_share_has_wilsons_interval(right: int, n: int) -> None:
    found = share([True] * right + [False] * (n - right))
    interval = binomtest(right, n).proportion_ci(method="wilson")
    assert (found.mean, found.n) == (right / n, n)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_share_of_values_between_zero_and_one() -> None:
    values = np.array([0.5, 0.25, 1.0, 0.35])
    half = [True, True, False, False]
    assert share(values).mean == pytest.approx(0.525)
    assert (share(values).low, share(values).high) == (share(half).low, share(half).high)
    assert str(share([False] * 100)) == "0.0 % [0.0, 3.7]"


def random_outcomes(n: int, first: float, second: float, seed: int) -> tuple[Array, Array]:
    """Return outcomes of two models on n images that share the images' difficulty."""
    rng = np.random.default_rng(seed)
    difficulty = rng.random(n)
    return (difficulty < first).astype(float)[None], (difficulty + rng.normal(0, 0.1, n) < second).astype(float)[None]


def test_interval_is_that_of_scipys_bootstrap() -> None:
    one, two = random_outcomes(150, 0.6, 0.5, 0)
    (found,) = compare({"a": one, "b": two})
    expected = bootstrap((one[0] - two[0],), np.mean, method="percentile", n_resamples=20_000, rng=1)
    assert found.mean == pytest.approx(one.mean() - two.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.008)


@pytest.mark.parametrize(("won", "lost"), [(5, 0), (12, 4), (3, 3), (0, 0), (40, 22)])
def test_p_is_never_below_mcnemars_exact_test(won: int, lost: int) -> None:
    one = np.array([[1.0] * won + [0.0] * lost + [1.0] * 60])
    two = np.array([[0.0] * won + [1.0] * lost + [1.0] * 60])
    (found,) = compare({"a": one, "b": two})
    exact = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert found.p >= exact - 0.01
    assert found.p <= exact + 0.05


def test_seeds_with_images_of_their_own_are_drawn_first_then_images_within_each() -> None:
    rng = np.random.default_rng(7)
    rates = np.array([0.3, 0.35, 0.5])[:, None]
    one, two = ((rng.random((3, 40)) < rate).astype(float) for rate in (rates + 0.2, rates))
    ((found,),) = compare_family([{"a": one, "b": two}], own_images=True)
    slow = []
    for _ in range(4000):
        drawn = [rng.choice(one[number] - two[number], 40) for number in rng.integers(3, size=3)]
        slow.append(np.mean(drawn))
    assert found.mean == pytest.approx((one - two).mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.015)
    assert found.p == pytest.approx(2 * np.mean(np.array(slow) <= 0), abs=0.02)


def test_pairs_share_one_correction() -> None:
    rng = np.random.default_rng(3)
    methods = {name: (rng.random((1, 200)) < rate).astype(float) for name, rate in (("a", 0.5), ("b", 0.6), ("c", 0.9))}
    found = compare(methods)
    assert [(gap.first, gap.second) for gap in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    ranked = sorted(found, key=lambda gap: gap.p)
    slow, largest = [], 0.0
    for rank, gap in enumerate(ranked):
        largest = max(largest, min(1.0, (3 - rank) * gap.p))
        slow.append(largest)
    assert [gap.adjusted for gap in ranked] == pytest.approx(slow)
    assert [gap.tie for gap in found] == [True, False, False]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_intervals_hold_zero_where_there_is_a_tie_and_only_there() -> None:
    rng = np.random.default_rng(5)
    rates = {"a": 0.5, "b": 0.55, "c": 0.62, "d": 0.7, "e": 0.9}
    measured = [{name: (rng.random((1, 150)) < rate).astype(float) for name, rate in rates.items()} for _ in range(3)]
    found = [gap for gaps in compare_family(measured) for gap in gaps]
    assert {gap.tie for gap in found} == {True, False}
    assert any(gap.tie and gap.p < 0.05 for gap in found)
    assert [gap.low <= 0 <= gap.high for gap in found] == [gap.tie for gap in found]
    assert [gap.adjusted for gap in found] == holm([gap.p for gap in found])


def test_a_clear_gap_on_few_images_that_differ_is_a_tie() -> None:
    """Five images of 200 all point one way: the bootstrap alone would call that 1 %, the exact test 6 %."""
    one, two = np.ones((1, 200)), np.ones((1, 200))
    two[0, :5] = 0
    (found,) = compare({"a": one, "b": two})
    assert found.tie


def test_training_seeds_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    steady = (rng.random((4, 300)) < 0.6).astype(float)
    varied = np.stack([(rng.random(300) < rate) for rate in (0.2, 0.4, 0.6, 0.8)]).astype(float)
    baseline = (rng.random((1, 300)) < 0.5).astype(float)
    (narrow,), (wide,) = compare({"a": steady, "b": baseline}), compare({"a": varied, "b": baseline})
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert compare({"a": varied, "b": baseline}) == [wide]  # seeded


def test_one_method_has_nothing_to_be_compared_with() -> None:
    assert compare({"a": np.ones((2, 5))}) == []
