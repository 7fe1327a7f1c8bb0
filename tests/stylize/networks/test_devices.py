from itertools import count

import pytest
import torch

from stylize.networks import devices


def test_the_rate_is_that_of_the_products_in_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(step=0.5)
    monkeypatch.setattr(devices, "MATRIX", 8)
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    # 0.5 s pass between two looks at the clock: three products, then 2.0 s have passed.
    assert devices.matrix_rate(torch.device("cpu"), torch.float32, 2.0) == 3 * 2 * 8**3 / 2.0
