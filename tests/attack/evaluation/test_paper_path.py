"""Both interpolators against SciPy's interp1d, one image at a time."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.stats import binomtest

from attack import authors_curve, interpolate_records, linear_curve

Array = NDArray[np.float64]


def random_records(kind: str, images: int = 23, steps: int = 40) -> tuple[Array, Array]:
    rng = np.random.default_rng(len(kind))
    moves = {
        "growing": rng.uniform(0.5, 1.5, (images, steps)),
        "standing still": rng.integers(0, 2, (images, steps)).astype(float),
        "turning back": rng.normal(0.3, 1.0, (images, steps)),
        "unequal ends": rng.uniform(0, 1, (images, steps)) * rng.uniform(0.2, 2, (images, 1)),
    }[kind]
    distance = np.abs(np.cumsum(np.hstack([np.zeros((images, 1)), moves]), axis=1))
    correct = (rng.random((images, steps + 1)) < np.linspace(1, 0, steps + 1)).astype(float)
    correct[:, 0] = 1
    return distance, correct


KINDS = ["growing", "standing still", "turning back", "unequal ends"]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_equals_scipy_per_image(kind: str) -> None:
    distance, correct = random_records(kind)
    points = np.sort(np.concatenate([np.linspace(0, distance.max() * 1.2, 50), distance[3], distance[7]]))

    values = interpolate_records(distance, correct, points)

    for i in range(len(distance)):
        order = np.argsort(distance[i], kind="stable")
        last = correct[i][order[-1]]
        slow = interp1d(distance[i], correct[i], bounds_error=False, fill_value=(np.nan, last))
        np.testing.assert_allclose(values[i], slow(points), atol=1e-12)
    curve = linear_curve("l2", distance, correct, points)
    np.testing.assert_allclose(curve.accuracy, values.mean(0))
    for total, low, high in zip(values.sum(0), curve.low, curve.high, strict=True):
        interval = binomtest(round(total), len(values)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [33, 100])
def test_authors_equals_their_rule_with_scipy(kind: str, points: int) -> None:
    distance, correct = random_records(kind)

    curve = authors_curve("l2", distance, correct, points)

    seen, scores = distance[:, :-1], correct[:, :-1]  # the state after the last step is never scored
    functions = [interp1d(x, y) for x, y in zip(seen, scores, strict=True)]
    expected: list[tuple[float, float, int]] = []
    for point in np.linspace(seen.min(), seen.max(), points):
        inside = [i for i in range(len(seen)) if seen[i].min() <= point <= seen[i].max()]
        if len(inside) > len(seen) / 2:
            floored = [int(functions[i](point)) for i in inside]
            expected.append((float(point), float(np.mean(floored)), len(inside)))
    found = list(zip(curve.distance, curve.accuracy, curve.images, strict=True))
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-12)


def test_flooring_lowers_a_curve_between_records() -> None:
    distance, correct = np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[1.0, 1.0, 0.0, 0.0]])
    linear = linear_curve("l2", distance, correct, np.array([0.0, 1.0, 1.25, 2.0]))
    assert linear.accuracy == [1.0, 1.0, 0.75, 0.0]
    authors = authors_curve("l2", distance, correct, 9)  # 0, 0.25 ... 2: step 3 is not used
    assert authors.distance[-1] == 2.0
    assert authors.accuracy == [1.0] * 5 + [0.0] * 4


def test_a_tie_jumps_to_its_last_record() -> None:
    distance, correct = np.array([[0.0, 1.0, 1.0, 2.0]]), np.array([[1.0, 1.0, 0.0, 0.0]])
    values = interpolate_records(distance, correct, np.array([0.999, 1.0, 1.001]))
    assert values.tolist() == [[1.0, 0.0, 0.0]]


def test_an_image_keeps_its_last_value_and_is_not_counted_there() -> None:
    distance = np.array([[0.0, 1.0], [0.0, 3.0]])
    correct = np.array([[1.0, 0.0], [1.0, 1.0]])
    curve = linear_curve("linf", distance, correct, np.array([0.0, 1.0, 2.0, 3.0]))
    assert curve.accuracy == [1.0, 0.5, 0.5, 0.5]
    assert curve.images == [2, 2, 1, 1]


def test_images_that_never_moved() -> None:
    still = np.zeros((3, 5))
    correct = np.array([[1.0] * 5, [1.0] * 5, [1.0, 1.0, 0.0, 0.0, 0.0]])
    for curve in (linear_curve("l2", still, correct, np.linspace(0, 0.01, 9)), authors_curve("l2", still, correct, 9)):
        assert curve.accuracy[0] == pytest.approx(2 / 3)
        assert np.isfinite(curve.accuracy).all()


def test_agreement_of_all_images_is_not_certainty() -> None:
    curve = linear_curve("linf", np.array([[0.0, 0.1]] * 100), np.array([[1.0, 0.0]] * 100), np.array([0.0, 0.1]))
    assert curve.accuracy == [1.0, 0.0]
    assert curve.low[0] == pytest.approx(0.963, abs=1e-3)
    assert curve.high[1] == pytest.approx(0.037, abs=1e-3)
