"""Wilson's interval against SciPy's."""

import pytest
from scipy.stats import binomtest

from attack.checks.robustness import wilson


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 100), (100, 100), (3, 10), (41, 129), (9_000, 10_000)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_it_is_scipys(successes: int, n: int, confidence: float) -> None:
    peer = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson(successes, n, confidence) == pytest.approx((peer.low, peer.high), abs=1e-12)


def test_no_survivor_of_a_hundred_is_not_certainty() -> None:
    assert wilson(0, 100) == pytest.approx((0, 0.037), abs=5e-4)
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_nonsense_is_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, n, confidence)
